//! How fresh a read is, told truly: by sessions, by headers, after a sleep.

use ciro::clock;
use futures::future::join_all;

use crate::client::{Answer, Client};
use crate::cluster::Cluster;
use crate::{secs, until};

const SESSION: &str = "X-Ciro-Session";

/// A client that sends the session of its last answer with every request.
struct Session {
    client: Client,
    token: String,
    applied: u64,
}

impl Session {
    fn new(client: &Client) -> Self {
        Self { client: client.clone(), token: String::new(), applied: 0 }
    }

    /// Submits on `node` or, if it can not, on the next one. The job's id.
    async fn write(&mut self, node: usize) -> String {
        let mark = self.client.mark(0.1);
        let ticket = self.client.submit(node, &mark).await;
        // Under the same key at the same place: the answer of a write that is done.
        let again = until(secs(20), "the write is answered again", async || {
            let answer = self.client.try_submit_in(&self.token, node, &mark).await?;
            matches!(answer.status, 200 | 201).then_some(answer)
        })
        .await;
        self.take(&again);
        ticket.id
    }

    /// Reads in the session, without any other word on freshness.
    async fn read(&mut self, node: usize, path: &str) -> Option<Answer> {
        let answer = self.client.get_in(&self.token, node, path).await?;
        self.take(&answer);
        Some(answer)
    }

    fn take(&mut self, answer: &Answer) {
        let applied: u64 = answer.header("X-Ciro-Applied-Index").parse().expect("an index");
        if answer.status < 300 {
            assert!(applied >= self.applied, "the session went back from {} to {applied}: {answer:?}", self.applied);
            self.applied = applied;
        }
        self.token = answer.header(SESSION).to_owned();
        assert!(!self.token.is_empty(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_reads_its_own_writes_on_every_node_and_across_the_death_of_leaders() {
    let mut cluster = Cluster::start(3, 0).await;
    let mut session = Session::new(&cluster.client);
    let mut written = Vec::new();
    for round in 0..3 {
        for node in cluster.running() {
            written.push(session.write(node).await);
            for reader in cluster.running() {
                let id = written.last().expect("one was written");
                let answer = session.read(reader, &format!("/jobs/{id}")).await.expect("the node answers");
                assert_eq!(answer.status, 200, "written on node {node}, not seen on node {reader}: {answer:?}");
            }
        }
        let leader = cluster.leader().await;
        cluster.kill(leader);
        for node in cluster.running() {
            for id in &written {
                let answer = session.read(node, &format!("/jobs/{id}")).await.expect("the node answers");
                assert_eq!(answer.status, 200, "round {round}, node {node}: {answer:?}");
            }
        }
        written.push(session.write(cluster.running()[0]).await);
        cluster.launch(leader);
        // It has everything to catch up, and answers as soon as it can: never with less than the session has seen.
        let id = written.last().expect("one was written").clone();
        until(secs(30), "the node that was killed answers", async || {
            let answer = session.read(leader, &format!("/jobs/{id}")).await?;
            assert!(matches!(answer.status, 200 | 503), "on the node that came back: {answer:?}");
            (answer.status == 200).then_some(())
        })
        .await;
    }
    cluster.add_worker();
    cluster.finish().await;
}

/// etcd #20418: a paused member answers a linearizable read with stale data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_wakes_says_how_old_its_state_is() {
    let mut cluster = Cluster::start_with(3, 0, &[("CIRO__API__LEASE_READS", "true")]).await;
    let sleeper = cluster.follower().await;
    let awake = cluster.leader().await;
    cluster.pause(sleeper);
    let mut session = Session::new(&cluster.client);
    let id = session.write(awake).await;
    let written = clock::instant();

    // The questions lie in its sockets when it wakes.
    let (client, token, path) = (cluster.client.clone(), session.token.clone(), format!("/jobs/{id}"));
    let asked = cluster.tasks.spawn("ask", async move {
        join_all((0..60).map(|turn| {
            let (client, token, path) = (client.clone(), token.clone(), path.clone());
            async move {
                match turn % 5 {
                    0 => (client.get(sleeper, &path).await, true),
                    1 => (client.get(sleeper, &format!("{path}?max_staleness_ms=500")).await, false),
                    2 => (client.get(sleeper, &format!("{path}?consistency=linearizable")).await, false),
                    3 => (client.get(sleeper, &format!("{path}?consistency=lease")).await, false),
                    _ => (client.get_in(&token, sleeper, &path).await, false),
                }
            }
        }))
        .await
    });
    tokio::time::sleep(secs(5)).await;
    let slept = written.elapsed();
    cluster.resume(sleeper);
    let (mut old, mut fresh) = (0, 0);
    for (answer, may_be_old) in asked.await.unwrap() {
        let answer = answer.expect("the woken node answers");
        match answer.status {
            200 => fresh += 1,
            503 => {}
            404 if may_be_old => {
                let said: u128 = answer.header("X-Ciro-Staleness-Ms").parse().expect("a staleness");
                assert!(
                    said >= slept.as_millis(),
                    "{said} ms, but it lacks what was written {slept:?} ago: {answer:?}"
                );
                old += 1;
            }
            _ => panic!("less than was asked for: {answer:?}"),
        }
    }
    println!("of 60 answers {fresh} were up to date, {old} old and said so");
    assert!(old + fresh > 0, "nothing was answered");
    until(secs(10), "it is as fresh as ever", async || {
        let answer = cluster.client.get(sleeper, &format!("/jobs/{id}?max_staleness_ms=500")).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    cluster.add_worker();
    cluster.finish().await;
}

/// etcd #20418, and the same under a lease that ran out while its holder slept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_does_not_pass_for_the_leader_of_now() {
    let mut cluster = Cluster::start_with(3, 0, &[("CIRO__API__LEASE_READS", "true")]).await;
    let old = cluster.leader().await;
    let name = cluster.nodes[old].id.clone();
    let leased = cluster.client.get(old, "/status?consistency=lease").await.expect("the leader answers");
    assert_eq!(leased.status, 200, "{leased:?}");
    cluster.pause(old);
    let new = cluster.leader().await;
    assert_ne!(new, old);
    let mut session = Session::new(&cluster.client);
    let id = session.write(new).await;
    let written = clock::instant();

    let (client, path) = (cluster.client.clone(), format!("/jobs/{id}"));
    let asked = cluster.tasks.spawn("ask", async move {
        join_all((0..40).map(|turn| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                match turn % 4 {
                    0 => (client.get(old, &format!("{path}?consistency=lease")).await, false),
                    1 => (client.get(old, &format!("{path}?consistency=linearizable")).await, false),
                    2 => (client.get(old, &path).await, true),
                    _ => (client.get(old, "/health/live").await, true),
                }
            }
        }))
        .await
    });
    tokio::time::sleep(secs(4)).await;
    let slept = written.elapsed();
    cluster.resume(old);
    for (answer, may_be_old) in asked.await.unwrap() {
        let answer = answer.expect("the woken node answers");
        // Who knows no leader can not say how old its state is, and says nothing.
        let staleness: u128 = answer.header("X-Ciro-Staleness-Ms").parse().unwrap_or(u128::MAX);
        let seen = answer.status == 200 && !answer.body["id"].is_null();
        assert!(!seen || staleness < u128::MAX, "no word on how old it is: {answer:?}");
        let claims = answer.header("X-Ciro-Role") == "leader" || answer.header("X-Ciro-Leader") == name;
        assert!(!(claims && staleness < slept.as_millis()), "it passes for the leader of now: {answer:?}");
        match answer.status {
            200 | 503 => {}
            404 if may_be_old => assert!(staleness >= slept.as_millis(), "old, and said to be new: {answer:?}"),
            _ => panic!("a stale read: {answer:?}"),
        }
    }
    cluster.add_worker();
    cluster.finish().await;
}
