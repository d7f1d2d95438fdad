//! Inputs that come from elsewhere, and outputs that stay.

use bytes::Bytes;

use super::*;
use crate::mesh::Lane;
use crate::wire::proto::mesh::v1::{FetchRange, FetchReply};

/// Says `lines` lines, 8 bytes each.
fn lines(lines: usize) -> String {
    format!("seq -f %07.0f 1 {lines}")
}

fn said(lines: usize) -> Vec<u8> {
    (1..=lines).flat_map(|n| format!("{n:07}\n").into_bytes()).collect()
}

async fn ask(coordinator: &Coordinator, worker: PeerId, sha256: Digest, offset: u64, length: u32) -> FetchReply {
    let sha256 = Bytes::copy_from_slice(&sha256.0);
    let question = wire::encode(&FetchRange { sha256, offset, length });
    let answer = coordinator.ask(worker, Lane::Fetch, question).await.expect("the worker answers");
    wire::decode(answer).expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_output_stays_here_and_is_handed_out_also_by_the_next_life() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let mut worker = story.worker(&mut leader, &[]).await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    leader.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    let bytes = said(10_000);
    leader.assign(worker.id, SCRIPT, attempt(1, 1), &lines(10_000), 10_000).await;
    let report = leader.hear_report(attempt(1, 1)).await;
    let output = output_of(&report);
    let sha256 = Digest::of(&bytes);
    assert_eq!((output.inline.len(), output.kept_size), (0, 80_000));
    assert_eq!(output.sha256, sha256.0.as_slice());
    let (job, number) = attempt(1, 1);
    assert!(mesh::verify(worker.id, &wire::signed_result(job, number, &sha256), &output.signature));

    for life in 0..2 {
        let part = ask(&leader, worker.id, sha256, 70_000, 10_000).await;
        assert_eq!((part.code.as_str(), &part.data[..]), ("", &bytes[70_000..]), "life {life}");
        assert_eq!(ask(&leader, worker.id, sha256, 70_000, 10_001).await.code, "range");
        assert_eq!(ask(&leader, worker.id, Digest([9; 32]), 0, 1).await.code, "gone");
        leader.await_accepted(attempt(1, 1)).await;
        if life == 0 {
            worker.stop().await;
            worker = story.worker(&mut leader, &[]).await;
            leader.announce_until_answered(SCRIPT, attempt(2, 1)).await;
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_above_every_limit_is_a_failure_and_leaves_nothing() {
    let story = Story::new();
    let mut leader = Coordinator::start(1).await;
    let worker = story.worker(&mut leader, &[]).await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    leader.announce_until_answered(SCRIPT, attempt(1, 1)).await;
    leader.assign(worker.id, SCRIPT, attempt(1, 1), "cat /dev/zero", 10_000).await;
    assert_eq!(failure_code(&leader.hear_report(attempt(1, 1)).await).0, "output_too_large");
    leader.assign(worker.id, SCRIPT, attempt(2, 1), &format!("{}; exit 3", lines(10_000)), 10_000).await;
    assert_eq!(failure_code(&leader.hear_report(attempt(2, 1)).await).0, "exit_code");
    let left = std::fs::read_dir(story.directory.path().join("outputs")).unwrap().count();
    assert_eq!(left, 0, "nothing is kept of what failed");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_by_reference_is_there_when_the_job_runs() {
    let story = Story::new();
    let root = story.directory.path().canonicalize().unwrap().join("inputs-of-the-operator");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("script"), "echo fetched; echo $CIRO_INPUT_URI").unwrap();
    let mut leader = Coordinator::start(1).await;
    let mut settings = settings(&story.directory, &[&leader]);
    settings.freight.inputs.schemes = vec!["file".to_owned()];
    settings.freight.inputs.roots = vec![root.clone()];
    settings.capabilities.input_schemes = vec!["file".to_owned()];
    let worker = Worker::start_with(settings, &story.tasks);
    leader.await_connection(worker.id).await;
    leader.hear(|heard| matches!(heard, Heard::Registered(_))).await;
    leader.announce_until_answered(SCRIPT, attempt(1, 1)).await;

    let uri = format!("file://{}", root.join("script").display());
    let script = std::fs::read(root.join("script")).unwrap();
    leader.refer(worker.id, SCRIPT, attempt(1, 1), &uri, &script).await;
    let report = leader.hear_report(attempt(1, 1)).await;
    let output = output_of(&report);
    assert_eq!(String::from_utf8(output.inline.to_vec()).unwrap(), format!("fetched\n{uri}\n"));

    leader.refer(worker.id, SCRIPT, attempt(2, 1), "file:///etc/passwd", &script).await;
    assert_eq!(failure_code(&leader.hear_report(attempt(2, 1)).await).0, "input_forbidden");
    std::fs::write(root.join("script"), "echo others; echo $CIRO_INPUT_UR_").unwrap();
    leader.refer(worker.id, SCRIPT, attempt(3, 1), &uri, b"echo those that were expected; lines").await;
    assert_eq!(failure_code(&leader.hear_report(attempt(3, 1)).await).0, "input_mismatch");
    worker.stop().await;
}
