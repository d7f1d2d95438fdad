//! Everything breaks while clients write down what they see; then the history is judged.
//!
//! [`load`] is what the clients do, [`schedule`] which faults come when, [`nemesis`]
//! does them, [`recorder`] keeps the books for [`crate::history`]. After the last
//! fault everything is mended, every job is read once more through the log, the
//! [`crate::oracle`] looks at all nodes, and the history gets its verdict.
//!
//! One run is in the suite. Longer ones: `scripts/chaos.sh`.

mod load;
mod nemesis;
mod recorder;
mod schedule;

use std::path::PathBuf;
use std::time::Duration;

use ciro::clock;
use futures::future::join_all;

use load::{Load, Sort};
use nemesis::{FOUNDERS, Nemesis};
use recorder::{Recorder, Session};
use schedule::Schedule;

use crate::cluster::Cluster;
use crate::history::model::Call;
use crate::history::{Fresh, History, Verdict, judge};
use crate::secs;

/// Many of them wait for a node that is paused or alone.
const CLIENTS: usize = 16;

/// How long a run goes on.
struct Length {
    /// At least this many operations on jobs ...
    operations: usize,
    /// ... and this much time, and every fault alone once.
    time: Duration,
    /// The most time that the operations may take beyond that.
    limit: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_leaves_a_history_that_one_log_could_have_told() {
    run(Length { operations: 200_000, time: secs(100), limit: secs(400) }).await;
}

/// `CIRO_CHAOS_MINUTES` says how long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as one likes: scripts/chaos.sh"]
async fn chaos_as_long_as_one_likes() {
    let minutes = std::env::var("CIRO_CHAOS_MINUTES").ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(10.0);
    let time = Duration::from_secs_f64(minutes * 60.0);
    run(Length { operations: 0, time, limit: time + secs(600) }).await;
}

async fn run(length: Length) {
    // Few entries, so that nodes that were away come back by snapshot.
    let often = [("CIRO__CLUSTER__SNAPSHOT_EVERY_ENTRIES", "2000"), ("CIRO__CLUSTER__KEEP_ENTRIES", "200")];
    let settings = often.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut cluster = Cluster::start_with_links_and_room(FOUNDERS, 1, 2, settings).await;
    cluster.add_worker_with(WORKER);
    cluster.workers_online(3).await;
    let seed = cluster.seed;
    let load = Load::new(Recorder::new(&cluster.client, &cluster.observer), format!("chaos-{seed}"), FOUNDERS);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| cluster.tasks.spawn("client", load.clone().client(number, seed ^ (number as u64 + 1))))
        .collect();
    let marks = cluster.tasks.spawn("marks", marks(cluster.client.clone(), load.clone()));
    let (nemesis, whole) = torment(&mut cluster, &load, &length, seed).await;
    load.stop();
    for client in clients {
        client.await.unwrap();
    }
    cluster.heal().await;
    marks.await.unwrap();
    settle(&load).await;
    let verdict = verdict(&load, &nemesis);
    println!("verdict: {verdict}");
    assert!(verdict.violations.is_empty(), "seed {seed}: the history breaks what was promised, see above");
    let operations = verdict.known + verdict.unknown + verdict.refused;
    assert!(operations >= length.operations, "only {operations} operations");
    assert!(verdict.unknown > 0 && verdict.refused > 0, "no fault was felt");
    assert!(whole, "there was no time for every fault");
    cluster.finish().await;
}

/// What is not a job of the oracle: ends at once, fails, or takes a moment.
const WORKER: &str = r#"
[worker]
max_parallel_jobs = 256

[jobs.noop]
builtin = "noop"

[jobs.flop]
command = ["/bin/false"]

[jobs.nap]
command = ["/bin/sh", "-c", "read time; /bin/sleep $time"]
"#;

/// Rounds of faults, until there was enough of everything. Whether each fault had its turn.
async fn torment(cluster: &mut Cluster, load: &Load, length: &Length, seed: u64) -> (Nemesis, bool) {
    let start = clock::instant();
    let mut nemesis = Nemesis::new();
    let mut schedule = Schedule::new(seed);
    while let Some(round) = schedule.next() {
        nemesis.round(cluster, &round).await;
        let operations = load.recorder.lock().ops.len();
        let rate = operations as f64 / start.elapsed().as_secs_f64();
        println!("          {operations} operations, {rate:.0}/s");
        let enough = operations >= length.operations && schedule.is_mixing() && start.elapsed() >= length.time;
        if enough || start.elapsed() >= length.limit {
            break;
        }
    }
    (nemesis, schedule.is_mixing())
}

/// A trickle of jobs that the oracle judges.
async fn marks(client: crate::client::Client, load: Load) {
    let mut turn = 0;
    while !load.stopped() {
        client.submit(turn % FOUNDERS, &client.mark(0.05)).await;
        turn += 1;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

/// Every job is read through the log once more, and none is left that could move.
async fn settle(load: &Load) {
    let keys = load.keys();
    let chunk = keys.len().div_ceil(8).max(1);
    let ends = keys.chunks(chunk).enumerate().map(|(part, keys)| async move {
        let mut session = Session::new(CLIENTS + part);
        for (turn, key) in keys.iter().enumerate() {
            let node = (part + turn) % FOUNDERS;
            // Not `until`: these run side by side.
            let start = clock::instant();
            loop {
                if key.sort == Sort::Orphan {
                    load.change(&mut session, node, key, Call::Cancel).await;
                }
                let reply = load.look(&mut session, node, key, "/status", Fresh::Linearizable).await;
                let state = reply.as_ref().and_then(|reply| reply.body["state"].as_str());
                let gone = reply.as_ref().is_some_and(|reply| reply.code() == "unknown_job");
                if gone || state.is_some_and(|state| ["completed", "failed", "cancelled"].contains(&state)) {
                    break;
                }
                assert!(start.elapsed() < secs(60), "{} does not end: {reply:?}", key.id);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    join_all(ends).await;
}

fn verdict(load: &Load, nemesis: &Nemesis) -> Verdict {
    let history = load.recorder.lock();
    let start = clock::instant();
    let verdict = judge(&history);
    println!(
        "judged in {:?}: {} requests; {} of {} answers were more than 100 ms behind their word",
        start.elapsed(),
        history.requests.len(),
        verdict.late.behind,
        verdict.late.told
    );
    for violation in verdict.violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    if !verdict.violations.is_empty() {
        keep(&history, nemesis, &verdict);
    }
    verdict
}

/// Writes the history, the faults and what is wrong where `CIRO_CHAOS_DIR` says, if it does.
fn keep(history: &History, nemesis: &Nemesis, verdict: &Verdict) {
    let Some(dir) = std::env::var_os("CIRO_CHAOS_DIR").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&dir).unwrap();
    let mut file = std::io::BufWriter::new(std::fs::File::create(dir.join("history")).unwrap());
    history.dump(&mut file).unwrap();
    std::fs::write(dir.join("faults"), nemesis.diary.join("\n")).unwrap();
    let broken: Vec<String> = verdict.violations.iter().map(ToString::to_string).collect();
    std::fs::write(dir.join("violations"), broken.join("\n")).unwrap();
    println!("the history, the faults and the violations are in {}", dir.display());
}
