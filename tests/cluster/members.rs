//! Nodes come, go, move and lie about who they are, while jobs flow.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ciro::clock;
use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::{ports, secs, until};

impl Cluster {
    /// A token that `node` hands out.
    fn invite(&self, node: usize, more: &[&str]) -> String {
        self.cli(node, &[&["cluster", "invite"], more].concat()).trim().to_owned()
    }

    /// From its next start on, node `node` listens on another port. Returns where that is.
    fn move_node(&mut self, node: usize) -> String {
        self.nodes[node].p2p = ports::free();
        let addresses: Vec<String> = self.nodes.iter().filter(|node| !node.absent).map(Node::address).collect();
        self.members = addresses.join(",");
        self.nodes[node].address()
    }

    /// Waits until `on` shows exactly these voters, and nothing under way.
    async fn voters(&self, on: usize, nodes: &[usize]) {
        let mut wanted: Vec<String> = nodes.iter().map(|node| self.nodes[*node].id.clone()).collect();
        wanted.sort();
        until(secs(60), &format!("nodes {nodes:?} vote"), async || {
            let body = self.client.get(on, "/cluster").await?.body;
            let mut voters: Vec<String> =
                body["voters"].as_array()?.iter().filter_map(|id| Some(id.as_str()?.to_owned())).collect();
            voters.sort();
            (voters == wanted && body["change_in_flight"].is_null()).then_some(())
        })
        .await;
    }

    /// What the node's process said before it ended by itself.
    async fn refusal(&mut self, node: usize) -> String {
        let process = self.nodes[node].process.take().expect("it was started");
        let status = process.wait(secs(30)).await;
        self.nodes[node].absent = true;
        assert!(!status.success(), "it was admitted");
        self.log(node)
    }
}

/// Clients that submit until they are told to stop; each says how many, and the longest wait for one.
fn load(cluster: &Cluster, clients: usize) -> (Arc<AtomicBool>, Vec<tokio::task::JoinHandle<(usize, Duration)>>) {
    let calm = Arc::new(AtomicBool::new(false));
    let one = |node: usize| {
        let (client, calm) = (cluster.client.clone(), calm.clone());
        cluster.tasks.spawn("client", async move {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !calm.load(Ordering::SeqCst) {
                let begun = clock::instant();
                client.submit(node, &client.mark(0.02)).await;
                longest = longest.max(begun.elapsed());
                count += 1;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            (count, longest)
        })
    };
    let handles = (0..clients).map(one).collect();
    (calm, handles)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_become_five_become_three_under_load() {
    let mut cluster = Cluster::start_with_room(3, 2, 2).await;
    let (calm, clients) = load(&cluster, 3);
    let tokens = [cluster.invite(0, &[]), cluster.invite(1, &["--ttl", "5m"])];
    cluster.join(3, &tokens[0]);
    cluster.join(4, &tokens[1]);
    cluster.voters(0, &[0, 1, 2, 3, 4]).await;
    cluster.all_ready().await;

    // A founder and a newcomer go, one of them the leader.
    let leader = cluster.leader().await;
    let other = if leader >= 3 { 2 } else { 7 - leader.max(3) };
    let left: Vec<usize> = (0..5).filter(|node| ![leader, other].contains(node)).collect();
    for gone in [leader, other] {
        let asked = left[0];
        let id = cluster.nodes[gone].id.clone();
        cluster.cli(asked, &["cluster", "remove", &id]);
        until(secs(20), &format!("node {gone} notices that it is out"), async || {
            let health = cluster.client.get(gone, "/health").await?;
            (health.status == 503 && health.body["components"]["raft"]["detail"].to_string().contains("removed"))
                .then_some(())
        })
        .await;
        cluster.retire(gone).await;
    }
    cluster.voters(left[0], &left).await;
    calm.store(true, Ordering::SeqCst);
    let (mut accepted, mut longest) = (0, Duration::ZERO);
    for client in clients {
        let (count, wait) = client.await.unwrap();
        (accepted, longest) = (accepted + count, longest.max(wait));
    }
    println!("{accepted} jobs accepted while 3 became 5 became 3; the longest wait was {longest:?}");
    assert!(accepted > 20, "hardly a job was accepted: {accepted}");
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_removed_by_a_call_to_itself() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader().await;
    let id = cluster.nodes[leader].id.clone();
    let answer: Value = serde_json::from_str(&cluster.cli(leader, &["--json", "cluster", "remove", &id])).unwrap();
    assert_eq!((answer["state"].as_str(), answer["node_id"].as_str()), (Some("done"), Some(&*id)), "{answer}");
    assert!(answer["warnings"][0].as_str().unwrap().contains("two voters"), "{answer}");
    until(secs(20), "it notices", async || {
        (cluster.client.get(leader, "/cluster").await?.body["removed"] == true).then_some(())
    })
    .await;
    assert!(cluster.log(leader).contains("this node was removed from the cluster"));
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let term = async |node| cluster.client.get(node, "/status").await.unwrap().body["term"].as_u64().unwrap();
    let before = term(others[0]).await;
    for turn in 0..20 {
        cluster.client.submit(others[turn % 2], &cluster.client.mark(0.02)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(term(others[0]).await, before, "who is out calls no elections");
    cluster.retire(leader).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_used_and_expired_invitations_admit_nobody() {
    let mut cluster = Cluster::start_with_room(1, 2, 1).await;
    let token = cluster.invite(0, &[]);
    cluster.join(1, &token);
    cluster.voters(0, &[0, 1]).await;

    cluster.join(2, &token);
    let said = cluster.refusal(2).await;
    assert!(said.contains("the invitation was used") && said.contains("cluster invite"), "{said}");

    let expired = cluster.invite(0, &["--ttl", "1s"]);
    tokio::time::sleep(secs(2)).await;
    cluster.client.submit(0, &cluster.client.mark(0.02)).await;
    cluster.join(2, &expired);
    let said = cluster.refusal(2).await;
    assert!(said.contains("the invitation has expired"), "{said}");

    let revoked: Value = serde_json::from_str(&cluster.cli(0, &["--json", "cluster", "invite"])).unwrap();
    cluster.cli(0, &["cluster", "revoke", revoked["id"].as_str().unwrap()]);
    cluster.join(2, revoked["token"].as_str().unwrap());
    let said = cluster.refusal(2).await;
    assert!(said.contains("the invitation is not known"), "{said}");
    let shown = cluster.cli(0, &["cluster", "invitations"]);
    assert!(shown.contains("used") && shown.contains("expired"), "{shown}");
    for secret in [&token, &expired] {
        assert!(!shown.contains(&secret[5..]), "a token is shown");
        for node in 0..2 {
            assert!(!cluster.log(node).contains(&secret[5..]), "a token is in the log of node {node}");
        }
    }
    cluster.finish().await;
}

/// dkron #1442, #999: the cluster is bound to IP addresses and cannot recover when they change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_changes_at_once_and_the_cluster_comes_back() {
    let mut cluster = Cluster::start(3, 0).await;
    for turn in 0..5 {
        cluster.client.submit(turn, &cluster.client.mark(0.02)).await;
    }
    for node in 0..3 {
        cluster.kill(node);
    }
    let old = cluster.addresses().join(",");
    let addresses: Vec<String> = (0..3).map(|node| cluster.move_node(node)).collect();
    // The old list stays in the configuration; where to begin is one node's new address.
    cluster.set("CIRO__CLUSTER__INITIAL_MEMBERS", &old);
    cluster.set("CIRO__NETWORK__BOOTSTRAP_PEERS", &addresses[0]);
    for node in 0..3 {
        cluster.launch(node);
    }
    cluster.all_ready().await;
    until(secs(30), "the members' addresses are those where they are now", async || {
        for node in 0..3 {
            let body = cluster.client.get(node, "/cluster").await?.body;
            for (other, address) in addresses.iter().enumerate() {
                let id = &cluster.nodes[other].id;
                let member = body["members"].as_array()?.iter().find(|member| member["id"] == **id)?;
                let port = address.split('/').nth(4)?;
                (member["address"].as_str()?.split('/').nth(4) == Some(port)).then_some(())?;
            }
        }
        Some(())
    })
    .await;
    cluster.add_worker();
    cluster.workers_online(1).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_identity_and_welcome_under_a_new_one() {
    let mut cluster = Cluster::start(3, 1).await;
    let wiped = cluster.follower().await;
    let other = (0..3).find(|node| *node != wiped).unwrap();
    let id = cluster.nodes[wiped].id.clone();
    cluster.client.submit(other, &cluster.client.mark(0.02)).await;
    cluster.kill(wiped);
    let data = cluster.nodes[wiped].dir.join("data");
    fs::remove_dir_all(data.join("store")).unwrap();
    cluster.cli(other, &["cluster", "remove", &id]);
    let token = cluster.invite(other, &[]);
    cluster.join(wiped, &token);
    let said = cluster.refusal(wiped).await;
    assert!(said.contains("another data directory") && said.contains("delete its key file"), "{said}");

    // What the message says: a new key, and the same token is still good.
    cluster.replace_node(wiped);
    cluster.join(wiped, &token);
    cluster.voters(other, &[0, 1, 2]).await;
    cluster.all_ready().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_in_the_middle_of_a_join_does_not_end_it() {
    let mut cluster = Cluster::start_with_room(3, 1, 1).await;
    for turn in 0..50 {
        cluster.client.submit(turn, &cluster.client.mark(0.01)).await;
    }
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let token = cluster.invite(other, &[]);
    let id = cluster.nodes[3].id.clone();
    cluster.join(3, &token);
    until(secs(20), "the books have the newcomer", async || {
        let body = cluster.client.get(leader, "/cluster").await?.body;
        (body["change_in_flight"].to_string().contains(&id) || body["members"].to_string().contains(&id)).then_some(())
    })
    .await;
    cluster.kill(leader);
    let third = (leader + 2) % 3;
    cluster.voters(third, &[0, 1, 2, 3]).await;
    cluster.restart(leader).await;
    // And the joiner's own restart, with the same command line.
    cluster.kill(3);
    cluster.restart(3).await;
    cluster.finish().await;
}
