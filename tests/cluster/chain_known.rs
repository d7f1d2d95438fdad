//! Against the class that people know, whose jobs can be submitted and nothing else: just that is done.

use std::collections::BTreeSet;

use ciro::tasks::Tasks;
use serde_json::json;

use crate::chain_desk::{Desk, Jobs};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::{secs, until};

/// The least that contract takes.
const STAKE: u128 = 1_000_000_000_000_000_000;
const JOBS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_contract_that_only_takes_submissions_gets_them_once_and_no_more() {
    let tasks = Tasks::new();
    let desk = Desk::open_known(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    for node in 0..3 {
        let status = desk.state(&cluster.client, node, "connected").await;
        assert_eq!(status["contract"]["generation"], "submission_only", "{status}");
    }
    let mut jobs = Jobs::default();
    jobs.submit(&cluster.client, JOBS, &json!({"max_price": STAKE.to_string()})).await;
    jobs.ended(&cluster.client).await;
    let mut ids = BTreeSet::new();
    for id in jobs.ids.values() {
        let job = until(secs(60), &format!("job {id} is registered"), async || {
            let job = cluster.client.get(1, &format!("/jobs/{id}")).await?.body;
            job["settlement"]["chain_job"].is_string().then_some(job)
        })
        .await;
        ids.insert(job["settlement"]["chain_job"].to_string());
    }
    assert_eq!(ids.len(), JOBS, "the contract's ids, one for each job");
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.restart(leader).await;
    chain_oracle::nothing_waits(&cluster.client).await;
    let events = chain_oracle::events(&desk).await;
    let submitted = events.iter().filter(|event| event.name == "JobSubmitted").count();
    assert_eq!((submitted, events.len()), (JOBS, JOBS), "each job is submitted once, and nothing else happens");
    let metrics = cluster.client.get(0, "/blockchain/metrics").await.expect("the node answers").body;
    assert_eq!(metrics["transactions_reverted"], 0, "{metrics}");
    cluster.finish().await;
    tasks.cancel();
}
