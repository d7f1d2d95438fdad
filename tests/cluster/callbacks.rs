//! Receivers of callbacks fail, hang and come back, and leaders die. Each end of a job is told of, under one id.

use std::collections::{BTreeMap, BTreeSet};

use ciro::tasks::Tasks;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::cluster::{Cluster, NETWORK};
use crate::receiver::{Receiver, Told};
use crate::{secs, until};

const SECRET: &str = "what both sides know";

/// Jobs of type `noop` that a story submits by itself, by id: where their ends are posted to.
type Promised = BTreeMap<String, String>;

async fn submit(cluster: &Cluster, promised: &mut Promised, receiver: &Receiver, path: &str) -> String {
    let number = promised.len();
    let path = format!("{path}/{number}");
    let body = json!({"type": "noop", "payload": "", "tags": [path], "callback_url": receiver.url(&path)});
    let key = format!("callback-{path}");
    let id = until(secs(20), "a job is accepted", async || {
        let node = cluster.running()[number % cluster.running().len()];
        let answer = cluster.client.post_within(node, "/jobs", &key, &body, secs(3)).await?;
        assert!(matches!(answer.status, 200 | 201 | 429 | 503), "{answer:?}");
        answer.body["id"].as_str().filter(|_| answer.status < 300).map(str::to_owned)
    })
    .await;
    promised.insert(id.clone(), path);
    id
}

async fn callback(cluster: &Cluster, id: &str) -> Option<Value> {
    let node = cluster.running()[0];
    Some(cluster.client.get(node, &format!("/jobs/{id}")).await?.body["callback"].clone())
}

/// Every job's end was taken at its own path, each time under the same id and with the same words, signed.
fn all_told(promised: &Promised, told: &[Told]) {
    let mut events = BTreeSet::new();
    for (job, path) in promised {
        let mine: Vec<&Told> = told.iter().filter(|told| told.path == *path).collect();
        assert!(mine.iter().any(|told| told.status == 200), "{job} was not told of at {path}");
        let bodies: BTreeSet<&str> = mine.iter().map(|told| told.text.as_str()).collect();
        assert_eq!(bodies.len(), 1, "a repeat says something else: {bodies:?}");
        let first = mine[0];
        assert_eq!(
            (first.body["job"]["id"].as_str(), &first.body["job"]["tags"]),
            (Some(job.as_str()), &json!([path]))
        );
        let event = first.body["event_id"].as_str().unwrap();
        assert!(event.starts_with(&format!("{NETWORK}-")), "{event}");
        assert!(events.insert(event.to_owned()), "{event} names two ends");
        assert!(mine.iter().all(|told| told.header("idempotency-key") == event));
        mine.iter().for_each(|told| signed(told));
    }
}

fn signed(told: &Told) {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.{}", told.header("x-ciro-timestamp"), told.text).as_bytes());
    assert_eq!(told.header("x-ciro-signature"), format!("sha256={}", hex::encode(mac.finalize().into_bytes())));
    assert_eq!(told.header("content-type"), "application/json");
    assert!(told.header("user-agent").starts_with("ciro-coordinator/"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_end_is_told_of_although_receivers_fail_or_hang_and_the_leader_dies() {
    let tasks = Tasks::new();
    let (receiver, hanging) = (Receiver::start(u32::MAX, &tasks).await, Receiver::start(0, &tasks).await);
    let mut cluster = Cluster::start_with(3, 0, &[("CIRO__CALLBACKS__SECRET", SECRET)]).await;
    cluster.add_idler();
    cluster.workers_online(1).await;

    // One receiver never answers; it has jobs before and after the others'.
    let (mut promised, mut hung) = (Promised::new(), Promised::new());
    for _ in 0..40 {
        submit(&cluster, &mut hung, &hanging, "/hang").await;
    }
    let mut flaky = vec![];
    for _ in 0..20 {
        flaky.push(submit(&cluster, &mut promised, &receiver, "/flaky").await);
        submit(&cluster, &mut promised, &receiver, "/fine").await;
    }
    let fine = |receiver: &Receiver| receiver.taken().keys().filter(|path| path.starts_with("/fine")).count();
    until(secs(20), "who answers is told although others fail and hang", async || {
        (fine(&receiver) == 20).then_some(())
    })
    .await;
    until(secs(20), "the others were tried", async || {
        let tried = |path: &str, all: &[Told]| all.iter().filter(|told| told.path.starts_with(path)).count();
        (tried("/flaky", &receiver.told()) >= 20 && tried("/hang", &hanging.told()) >= 1).then_some(())
    })
    .await;
    assert_eq!(callback(&cluster, &flaky[0]).await.unwrap()["state"], "waiting");

    let leader = cluster.leader().await;
    cluster.kill(leader);
    assert_ne!(cluster.leader().await, leader);
    for _ in 0..5 {
        submit(&cluster, &mut promised, &receiver, "/fine").await;
    }
    receiver.recover();
    until(secs(40), "all ends are told of under the next leader", async || {
        (receiver.taken().len() == promised.len()).then_some(())
    })
    .await;
    all_told(&promised, &receiver.told());
    for id in promised.keys() {
        until(secs(20), "what was delivered is recorded", async || {
            (callback(&cluster, id).await?["state"] == "delivered").then_some(())
        })
        .await;
    }
    let states: BTreeSet<String> = states_of(&cluster, hung.keys()).await;
    assert_eq!(states, BTreeSet::from(["waiting".to_owned()]), "what hangs waits");
    let repeats = receiver.told().iter().filter(|told| told.status == 200).count() - promised.len();
    println!("{} ends told of, {repeats} of them again; {} tries in all", promised.len(), receiver.told().len());
    cluster.finish().await;
    tasks.cancel();
}

async fn states_of(cluster: &Cluster, ids: impl Iterator<Item = &String>) -> BTreeSet<String> {
    let mut states = BTreeSet::new();
    for id in ids {
        states.insert(callback(cluster, id).await.unwrap()["state"].as_str().unwrap().to_owned());
    }
    states
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_in_the_middle_of_telling_and_nobody_is_forgotten() {
    let tasks = Tasks::new();
    let receiver = Receiver::start(1, &tasks).await;
    let mut cluster = Cluster::start_with(3, 0, &[("CIRO__CALLBACKS__SECRET", SECRET)]).await;
    cluster.add_idler();
    cluster.workers_online(1).await;
    let mut promised = Promised::new();
    for _ in 0..4 {
        for turn in 0..30 {
            submit(&cluster, &mut promised, &receiver, if turn % 3 == 0 { "/flaky" } else { "/fine" }).await;
        }
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.leader().await;
        cluster.restart(leader).await;
    }
    until(secs(60), "all ends are told of", async || (receiver.taken().len() == promised.len()).then_some(())).await;
    all_told(&promised, &receiver.told());
    let twice = receiver.taken().values().filter(|told| told.len() > 1).count();
    println!("{} ends, {} tries, {twice} taken more than once", promised.len(), receiver.told().len());
    cluster.finish().await;
    tasks.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_private_addresses_are_not_posted_to_a_name_does_not_help() {
    let tasks = Tasks::new();
    let receiver = Receiver::start(0, &tasks).await;
    let cluster = Cluster::start_with(1, 0, &[("CIRO__CALLBACKS__ALLOW_PRIVATE", "false")]).await;
    let port = receiver.address.rsplit_once(':').unwrap().1;
    let body = |url: String| json!({"type": "noop", "payload": "", "callback_url": url});
    let refused = cluster.client.post(0, "/jobs", "a", &body(receiver.url("/fine"))).await.unwrap();
    assert_eq!(
        (refused.status, refused.code(), &refused.body["field"]),
        (422, "invalid_field", &json!("callback_url"))
    );
    assert!(refused.body["hint"].as_str().unwrap().contains("callbacks.allow_private"), "{refused:?}");

    let named = body(format!("http://localhost:{port}/fine"));
    let id = cluster.client.post(0, "/jobs", "b", &named).await.unwrap().body["id"].as_str().unwrap().to_owned();
    assert_eq!(callback(&cluster, &id).await.unwrap()["state"], "not_due");
    cluster.client.delete(0, &format!("/jobs/{id}")).await.unwrap();
    let given_up = until(secs(10), "it is given up", async || {
        callback(&cluster, &id).await.filter(|callback| callback["state"] == "given_up")
    })
    .await;
    assert_eq!((&given_up["error"], &given_up["tries"]), (&json!("forbidden_address"), &json!(1)));
    assert!(receiver.told().is_empty(), "{:?}", receiver.told());
    cluster.finish().await;
    tasks.cancel();
}
