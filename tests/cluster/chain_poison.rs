//! A call that reverts, among good ones: it is found and parked, the others are settled, and an operator has it tried again.

use ciro::tasks::Tasks;
use serde_json::{Value, json};

use crate::chain_desk::{Desk, Jobs, give};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::{secs, until};

/// More than the coordinator has of the token.
const DEAR: u128 = 50_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_call_that_reverts_is_parked_and_the_others_are_settled() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    jobs.submit(&cluster.client, 20, &json!({})).await;
    let dear = jobs.submit(&cluster.client, 1, &json!({"max_price": DEAR.to_string()})).await.remove(0);
    jobs.submit(&cluster.client, 20, &json!({})).await;
    jobs.ended(&cluster.client).await;
    let mut good = chain_oracle::told(&cluster.client).await;
    good.remove(&dear).expect("it is a job like the others");
    chain_oracle::settled(&desk, &good).await;

    let first = until(secs(40), "all stages of the dear job are parked", async || {
        let parked: Vec<Value> = listed(&cluster.cli(0, &["--json", "blockchain", "dlq", "list"]))
            .into_iter()
            .filter(|it| it["job_id"] == dear)
            .collect();
        (parked.len() == 3).then(|| parked[0].clone())
    })
    .await;
    println!("parked: {first}");
    assert_eq!(first["stage"], "register", "{first}");
    let letter = first["id"].as_str().expect("an entry has an id").to_owned();
    let counted = listed(&cluster.cli(1, &["--json", "blockchain", "dlq", "list"]));
    assert!(counted.iter().all(|it| it["job_id"] == dear), "others are parked as well: {counted:?}");

    // Now there is enough. The next leader knows of it as well.
    desk.admin.invoke(vec![give(desk.token, desk.coordinator.address, DEAR)]).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.restart(leader).await;
    let node = cluster.follower().await;
    cluster.cli(node, &["blockchain", "dlq", "retry", &letter]);
    chain_oracle::judge_funded(&cluster.client, &desk, &jobs, DEAR).await;
    let left = listed(&cluster.cli(0, &["--json", "blockchain", "dlq", "list"]));
    assert!(left.is_empty(), "{left:?}");
    cluster.finish().await;
    tasks.cancel();
}

fn listed(text: &str) -> Vec<Value> {
    let answer: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    answer["entries"].as_array().unwrap_or_else(|| panic!("no list: {answer}")).clone()
}
