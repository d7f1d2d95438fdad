//! A broker that asks who is there: nodes log in by name and password, and say so when these are wrong.

use ciro::kafka::Delivery;
use ciro::tasks::Tasks;
use serde_json::json;

use crate::cluster::Cluster;
use crate::kafka_broker::Apache;
use crate::kafka_desk::{Desk, with_headers};
use crate::kafka_oracle::{self, Produced};
use crate::kafka_records::job;
use crate::{secs, until};

const USER: &str = "ciro";
const PASSWORD: &str = "a word that brokers know";
const CLIENT: &str = "0xc11e47";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_broker_that_wants_a_password_is_read_and_written_with_the_right_one() {
    let tasks = Tasks::new();
    let apache = Apache::start_with_login(USER, PASSWORD);
    let desk = Desk::new(&apache.bootstrap, "sasl", Delivery::ExactlyOnce, &tasks);
    let mut settings = desk.settings();
    settings.retain(|(name, _)| name != "CIRO__KAFKA__BOOTSTRAP_SERVERS");
    let login = [
        ("BOOTSTRAP_SERVERS", apache.with_login()),
        ("SECURITY_PROTOCOL", "sasl_plaintext".to_owned()),
        ("SASL_MECHANISM", "PLAIN".to_owned()),
        ("SASL_USERNAME", USER.to_owned()),
        ("SASL_PASSWORD", "some other word".to_owned()),
    ];
    settings.extend(login.map(|(name, value)| (format!("CIRO__KAFKA__{name}"), value)));
    let mut cluster = Cluster::start_as(3, 0, &desk.network, settings).await;
    cluster.add_idler();
    cluster.workers_online(1).await;

    for node in 0..3 {
        let why = until(secs(60), &format!("node {node} says that it is not let in"), async || {
            let status = cluster.client.get(node, "/kafka/status").await?.body;
            let why = status["last_error"].as_str()?.to_owned();
            (status["state"] == "down" && why.to_lowercase().contains("authentication")).then_some(why)
        })
        .await;
        println!("node {node}: {why}");
        assert!(!why.contains("other word"), "{why}");
        let health = cluster.client.get(node, "/health").await.expect("the node answers");
        assert_eq!((health.status, &health.body["components"]["kafka"]["status"]), (200, &json!("degraded")));
    }

    cluster.set("CIRO__KAFKA__SASL_PASSWORD", PASSWORD);
    for node in 0..3 {
        cluster.kill(node);
        cluster.restart(node).await;
    }
    desk.topic(&desk.topics.results).await;
    let mut produced = Produced::default();
    let names: Vec<String> = (0..40).map(|number| format!("job-{number:05}")).collect();
    let messages = names.iter().enumerate().map(|(number, name)| job(&desk, name, number));
    desk.produce(messages.collect()).await;
    produced.good.extend(names);
    produced.good.insert("job-of-a-client".to_owned());
    desk.produce(vec![of_a_client(&desk)]).await;
    kafka_oracle::judge(&cluster.client, &desk, &produced).await;

    let list = cluster.client.get(1, "/jobs?state=all&limit=1000").await.expect("the node answers").body;
    let ours = list["jobs"].as_array().unwrap().iter().find(|job| job["tags"] == json!(["job-of-a-client"])).unwrap();
    assert_eq!((&ours["client_address"], &ours["source"]), (&json!(CLIENT), &json!("kafka")), "{ours}");
    cluster.finish().await;
    tasks.cancel();
}

/// A job that says whose it is.
fn of_a_client(desk: &Desk) -> ciro::kafka::Message {
    let body = json!({"type": "noop", "payload": "", "tags": ["job-of-a-client"], "client_address": CLIENT});
    let plain = job(desk, "job-of-a-client", 2);
    let value = Some(body.to_string().into_bytes());
    with_headers(ciro::kafka::Message { value, ..plain }, &[("content-type", "application/json")])
}
