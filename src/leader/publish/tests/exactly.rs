//! `exactly_once`, which takes a real broker: `CIRO_TEST_KAFKA=host:port cargo test --lib exactly -- --ignored`.

use super::delivery::{Bench, counted, until};
use super::fixture::outlet;
use crate::kafka::Error;
use crate::leader::publish::batch::Batch;
use crate::leader::publish::record::{Form, Outlet};

async fn bench() -> Bench {
    let bench = Bench::exactly_once(std::env::var("CIRO_TEST_KAFKA").unwrap()).await;
    let progress = bench.kafka.options().topics.progress();
    until("topics", async || bench.kafka.reader().unwrap().survey(&progress).await.is_ok()).await;
    bench
}

fn results(bench: &Bench) -> String {
    bench.kafka.options().topics.results.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs CIRO_TEST_KAFKA"]
async fn what_a_dead_leader_committed_is_not_sent_again_and_its_number_moves_the_cursor() {
    let bench = bench().await;
    bench.cancelled(0..100).await;
    // A predecessor that died between its transaction and the cursor.
    let (mut writer, mark) = bench.kafka.exact_writer().await.unwrap();
    assert_eq!(mark, None);
    let mut batch = Batch::after(0);
    while bench.reign.context.client.read(|state| batch.extend(state)) {}
    let outlet = Outlet { topics: bench.kafka.options().topics.clone(), ..outlet() };
    let messages: Vec<_> = batch.items.iter().map(|item| outlet.message(item, &Form::Whole)).collect();
    writer.send(messages[..60].to_vec(), 120).await.unwrap();

    bench.cancelled(100..150).await;
    bench.run_until_delivered().await;
    let records = bench.committed(&results(&bench), 150).await;
    let (counts, total) = (counted(&records), records.len());
    assert_eq!((counts.len(), total), (150, 150), "each once");
    assert_eq!(writer.send(messages[..1].to_vec(), 120).await, Err(Error::Fenced), "and it is fenced if it wakes up");
    assert_eq!(bench.committed(&results(&bench), 150).await.len(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs CIRO_TEST_KAFKA"]
async fn a_leader_that_is_fenced_goes_on_with_a_new_writer() {
    let bench = bench().await;
    bench.cancelled(0..10).await;
    let mut fenced = false;
    bench
        .run_until("delivery", &bench.reign, async || {
            if bench.cursor() == Some(20) && !fenced {
                drop(bench.kafka.exact_writer().await.unwrap());
                fenced = true;
                bench.cancelled(10..20).await;
            }
            bench.cursor() == Some(40)
        })
        .await;
    let records = bench.committed(&results(&bench), 20).await;
    assert_eq!((counted(&records).len(), records.len()), (20, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs CIRO_TEST_KAFKA"]
async fn nothing_is_published_behind_a_watermark_of_another_journal() {
    let bench = bench().await;
    bench.cancelled(0..10).await;
    let (mut writer, _) = bench.kafka.exact_writer().await.unwrap();
    writer.send(vec![], 1_000).await.unwrap();
    bench
        .run_until("an alarm", &bench.reign, async || {
            bench.kafka.view().alarms.iter().any(|alarm| alarm.contains("nothing is published"))
        })
        .await;
    assert_eq!(bench.cursor(), Some(0));
    assert_eq!(bench.held(&results(&bench)).await, 0);
}
