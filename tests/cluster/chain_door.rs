//! The chain as a door: jobs that wait for their registration, and jobs that others submit there.

use ciro::tasks::Tasks;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use starknet::core::types::Felt;
use starknet::core::utils::cairo_short_string_to_felt;

use crate::chain_desk::{Desk, FUNDS, Jobs, PRICE, PRICE_MAX, give};
use crate::chain_hand::{Hand, call, u256};
use crate::chain_node::Devnet;
use crate::chain_oracle;
use crate::chain_proxy::{Fault, Gate, Rule, SEND};
use crate::{secs, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_registration_comes_before_distribution_where_a_job_asks_for_it() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let mut cluster = desk.cluster().await;
    let mut jobs = Jobs::default();
    let policy = json!({"settlement": "register_before_distribution"});
    let gate = desk.proxy.first(Rule::all(&[SEND], Fault::HoldRequest(Gate::default())));
    let waiting = jobs.submit(&cluster.client, 1, &policy).await.remove(0);
    let later = jobs.submit(&cluster.client, 1, &json!({})).await.remove(0);
    gate.reached(secs(20), "the registration is sent").await;
    // Another job comes and goes meanwhile.
    cluster.client.ended(0, &later, secs(20)).await;
    for node in 0..3 {
        let job = cluster.client.get(node, &format!("/jobs/{waiting}")).await.expect("the node answers").body;
        assert_eq!((&job["state"], &job["attempt"]), (&json!("pending"), &json!(0)), "not registered yet: {job}");
    }
    // A new leader asks nobody to run it either.
    let leader = cluster.leader().await;
    cluster.kill(leader);
    gate.shut();
    let sent = desk.proxy.seen(SEND);
    until(secs(20), "the next leader sends it again, in vain", async || (desk.proxy.seen(SEND) > sent).then_some(()))
        .await;
    let job =
        cluster.client.get(cluster.running()[0], &format!("/jobs/{waiting}")).await.expect("the node answers").body;
    assert_eq!(job["state"], "pending", "{job}");
    desk.proxy.heal();
    let job = cluster.client.ended(0, &waiting, secs(40)).await;
    assert_eq!(job["state"], "completed", "{job}");
    cluster.heal().await;
    chain_oracle::judge(&cluster.client, &desk, &jobs).await;
    cluster.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_job_that_somebody_submits_there_becomes_a_job_here() {
    let tasks = Tasks::new();
    let desk = Desk::open(Devnet::shared().await, &tasks).await;
    let cluster = desk.cluster().await;
    let client = Hand::of(desk.devnet, &desk.devnet.account()).await;
    let approve = call(desk.token, "approve", [vec![desk.contract], u256(FUNDS).to_vec()].concat());
    desk.admin.invoke(vec![give(desk.token, client.address, FUNDS)]).await;
    let input = b"brought by the chain".to_vec();
    let uri = format!("file://{}", cluster.file("from-the-chain", &input));
    let submit = call(desk.contract, "submit_ai_job", submission(&uri, &input, client.address));
    client.invoke(vec![approve, submit]).await;

    let job: Value = until(secs(40), "the job of the chain has ended here", async || {
        let page = cluster.client.get(1, "/jobs?state=all").await?.body;
        let job = page["jobs"].as_array()?.iter().find(|job| job["source"] == "chain")?.clone();
        matches!(job["state"].as_str()?, "completed" | "failed").then_some(job)
    })
    .await;
    assert_eq!((&job["state"], &job["type"]), (&json!("completed"), &json!("noop")), "{job}");
    // The contract counts such ids from 1.
    until(secs(40), "it is paid for", async || {
        let details = chain_oracle::details(&desk, &[1]).await.remove(0);
        (details.state == chain_oracle::COMPLETED).then_some(())
    })
    .await;
    assert_eq!(desk.balance(client.address).await, FUNDS - PRICE, "what was not spent goes back to who paid");
    assert_eq!((desk.escrow().await, desk.balance(desk.coordinator.address).await), (0, FUNDS));
    cluster.finish().await;
    tasks.cancel();
}

/// Arguments of `submit_ai_job`.
fn submission(uri: &str, input: &[u8], client: Felt) -> Vec<Felt> {
    let text = |text: &str| cairo_short_string_to_felt(text).unwrap();
    let digest = Sha256::digest(input);
    let half = |part: &[u8]| Felt::from_bytes_be_slice(part);
    let parts: Vec<Felt> = uri.as_bytes().chunks(31).map(Felt::from_bytes_be_slice).collect();
    let mut metadata = vec![text("ciro.ref.v1"), text("noop"), half(&digest[..16]), half(&digest[16..])];
    metadata.push(Felt::from(parts.len()));
    metadata.extend(parts);
    // Inference, no model, hash of the input, any format, no verification.
    let mut felts = vec![Felt::ZERO, Felt::ZERO, Felt::ZERO, half(&digest[..31]), Felt::ZERO, Felt::ZERO];
    felts.extend(u256(PRICE_MAX));
    felts.extend([Felt::from(4_000_000_000_u64), Felt::ZERO, Felt::from(metadata.len())]);
    felts.extend(metadata);
    felts.extend(u256(PRICE_MAX));
    felts.push(client);
    felts
}
