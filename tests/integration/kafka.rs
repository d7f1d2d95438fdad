//! What a node says and does about Kafka: while it is disabled, and beside the development broker.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::node::Node;

const COORDINATOR: &str = env!("CARGO_BIN_EXE_ciro-coordinator");

/// Anything these stories wait for takes less, on a machine shared with compilers too.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_node_without_kafka_says_so_and_makes_nothing_up() {
    let node = Node::start().await;
    let status = node.get("/kafka/status?consistency=linearizable").await.body;
    for (field, value) in [
        ("state", json!("disabled")),
        ("mode", Value::Null),
        ("cluster_id", Value::Null),
        ("recorded_cluster_id", Value::Null),
        ("intake", json!([])),
        ("journal_cursor", Value::Null),
        ("undelivered", json!(0)),
        ("dead_letters", json!(0)),
        ("alarms", json!([])),
        ("as_of", Value::Null),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    let stats = node.get("/kafka/stats").await.body;
    assert_eq!((&stats["topics"], &stats["published"]["results"]), (&json!([]), &json!(0)));
    let health = node.get("/health").await;
    assert_eq!(health.body["components"]["kafka"], json!({"status": "disabled", "detail": "not configured"}));
    let metrics = node.get("/metrics?format=json").await.body;
    assert!(metrics["metrics"]["ciro_kafka_connected"].is_null(), "disabled is not disconnected");
    let alarms = metrics["metrics"]["ciro_kafka_alarm"]["samples"].as_array().unwrap();
    assert!(alarms.len() > 5 && alarms.iter().all(|alarm| alarm["value"] == 0.0), "{alarms:?}");
    let history = node.get("/metrics/history?name=kafka_dead_letters").await.body;
    assert!(history["series"]["kafka_dead_letters"].is_array());
}

#[tokio::test]
async fn letters_that_are_not_there_can_be_neither_seen_nor_replayed_nor_dropped() {
    let node = Node::start().await;
    let queue = "/kafka/dead-letter-queue";
    let list = node.get(&format!("{queue}?limit=10&consistency=linearizable")).await.body;
    assert_eq!((&list["size"], &list["entries"], &list["next_cursor"]), (&json!(0), &json!([]), &Value::Null));
    for (id, code) in [
        ("7", "unknown_dead_letter"),
        ("x", "invalid_id"),
        ("0", "invalid_id"),
        ("-1", "invalid_id"),
        ("07", "invalid_id"),
    ] {
        for (method, path) in [
            ("GET", format!("{queue}/{id}")),
            ("POST", format!("{queue}/{id}/replay")),
            ("DELETE", format!("{queue}/{id}")),
        ] {
            let answer = node.ask(method, &path).send().await;
            assert_eq!((answer.status, answer.code()), (404, code), "{method} {path}");
        }
    }
    let cursor = node.get(&format!("{queue}?cursor=zz")).await;
    assert_eq!((cursor.status, cursor.code()), (400, "invalid_parameter"));
}

#[tokio::test]
async fn an_operators_slip_is_refused_by_field() {
    let node = Node::start().await;
    let seek = |topic: &str, partition: Value, offset: Value| json!({"topic": topic, "partition": partition, "offset": offset});
    let cases = [
        ("/kafka/intake/seek", seek("", json!(0), json!(0)), 422, "invalid_field", "topic"),
        ("/kafka/intake/seek", seek("a b", json!(0), json!(0)), 422, "invalid_field", "topic"),
        ("/kafka/intake/seek", seek("t", json!(-1), json!(0)), 422, "invalid_field", "partition"),
        ("/kafka/intake/seek", seek("t", json!(0), json!(1e19)), 422, "invalid_field", "offset"),
        ("/kafka/intake/seek", seek("t", json!("0"), json!(0)), 422, "invalid_field", "partition"),
        ("/kafka/intake/seek", json!({"topic": "t", "partition": 0}), 422, "missing_field", "offset"),
        ("/kafka/intake/seek", json!({"topic": "t", "partition": 0, "offset": 0, "to": 1}), 422, "unknown_field", "to"),
        ("/kafka/intake/reset", json!({"cluster_id": ""}), 422, "invalid_field", "cluster_id"),
        ("/kafka/intake/reset", json!({"cluster_id": "a b"}), 422, "invalid_field", "cluster_id"),
        ("/kafka/intake/reset", json!({}), 422, "missing_field", "cluster_id"),
    ];
    for (path, body, status, code, field) in cases {
        let answer = node.post(path, &body).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{body}: {}", answer.text);
        assert_eq!(answer.body["field"], field, "{body}");
    }
    let refused = node.post("/kafka/intake/seek", &seek("ciro.jobs", json!(0), json!(5))).await;
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "nobody reads that partition");
    let refused = node.post("/kafka/intake/reset", &json!({"cluster_id": "lkc-1"})).await;
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "who is not connected can not tell");
    let forgotten = node.ask("DELETE", "/kafka/cursor").send().await;
    assert_eq!((forgotten.status, &forgotten.body["changed"]), (200, &json!(false)), "nothing was kept");
}

/// The development broker as a child process.
struct Broker {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Broker {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("ciro-broker-").tempdir().unwrap();
        let file = dir.path().join("address");
        let child = Command::new(COORDINATOR)
            .args(["dev-broker", "--address-file"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = until("the broker's address", async || {
            std::fs::read_to_string(&file).ok().filter(|text| text.contains(':'))
        });
        let address = address.await.trim().to_owned();
        Self { child, address, _dir: dir }
    }

    async fn node(&self) -> Node {
        let servers = self.address.as_str();
        Node::start_with(&[
            ("CIRO__KAFKA__ENABLED", "true"),
            ("CIRO__KAFKA__MODE", "embedded"),
            ("CIRO__KAFKA__DELIVERY", "at_least_once"),
            ("CIRO__KAFKA__BOOTSTRAP_SERVERS", servers),
        ])
        .await
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Looks again and again until there is something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = clock::instant();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs `ciro-coordinator --json …`: its exit code, and each document it wrote.
async fn command(args: &[&str]) -> (i32, Vec<Value>) {
    let output = tokio::process::Command::new(COORDINATOR).arg("--json").args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap).collect();
    let code = output.status.code().unwrap_or(-1);
    if code != 0 {
        println!("{args:?} ended with {code}: {}", String::from_utf8_lossy(&output.stderr));
    }
    (code, documents)
}

/// The one document of a command that must succeed.
async fn answer(args: &[&str]) -> Value {
    let (code, mut documents) = command(args).await;
    assert_eq!((code, documents.len()), (0, 1), "{args:?}: {documents:?}");
    documents.remove(0)
}

#[tokio::test]
async fn a_node_tells_of_its_broker_and_when_it_is_gone() {
    let mut broker = Broker::start().await;
    let node = broker.node().await;
    let connected = until("the connection", async || {
        let status = node.get("/kafka/status").await.body;
        (status["state"] == "connected" && status["intake"].as_array()?.len() == 4).then_some(status)
    });
    let status = connected.await;
    assert_eq!((&status["bootstrap_servers"], &status["mode"]), (&json!([broker.address]), &json!("embedded")));
    assert_eq!((&status["brokers"], &status["alarms"]), (&json!([broker.address]), &json!([])), "{status}");
    assert_eq!((&status["intake"][3]["high_watermark"], &status["intake"][3]["lag"]), (&json!(0), &json!(0)));
    let health = node.get("/health").await;
    assert_eq!(health.body["components"]["kafka"]["status"], "healthy", "{}", health.text);
    let metrics = node.get("/metrics?format=json").await.body;
    assert_eq!(metrics["metrics"]["ciro_kafka_connected"]["samples"][0]["value"], 1.0);

    let refused = node.ask("DELETE", "/kafka/cursor").send().await;
    assert_eq!((refused.status, refused.code()), (409, "conflict"));
    assert!(refused.body["hint"].as_str().unwrap().contains("kafka.enabled"), "{}", refused.text);
    let seek = |partition, offset| json!({"topic": "ciro.jobs", "partition": partition, "offset": offset});
    assert_eq!(node.post("/kafka/intake/seek", &seek(0, 5)).await.status, 409, "there is no such offset");
    assert_eq!(node.post("/kafka/intake/seek", &seek(9, 0)).await.status, 409, "there is no such partition");
    assert_eq!(node.post("/kafka/intake/reset", &json!({"cluster_id": "other"})).await.status, 409);
    let same = node.post("/kafka/intake/reset", &json!({"cluster_id": status["cluster_id"]})).await;
    assert_eq!(same.status, 200, "{}", same.text);

    broker.kill();
    let down = until("the node to notice", async || {
        let status = node.get("/kafka/status").await.body;
        (status["state"] == "down").then_some(status)
    });
    let alarms = down.await["alarms"].clone();
    assert_eq!(alarms[0]["code"], "down", "{alarms}");
    let health = node.get("/health").await;
    assert_eq!((health.status, &health.body["components"]["kafka"]["status"]), (200, &json!("degraded")));
    let job = node.post("/jobs", &json!({"type": "sha256", "payload": "aGk="})).await;
    assert_eq!(job.status, 201, "jobs by REST go on");
}

#[tokio::test]
async fn a_record_that_is_no_job_can_be_looked_at_replayed_and_dropped_from_the_command_line() {
    let broker = Broker::start().await;
    let node = broker.node().await;
    let (api, kafka) = (node.api.as_str(), broker.address.as_str());
    let file = node.dir().join("records");
    std::fs::write(&file, "{\"type\": \"sha256\", \"payload\": \"aGk=\"}\n\n{\"type\": \"sha256\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, sent) = command(&["kafka", "produce", "--bootstrap", kafka, "--lines", file]).await;
    assert_eq!((code, sent.len()), (0, 2), "{sent:?}");
    assert!(sent.iter().all(|sent| sent["topic"] == "ciro.jobs" && sent["offset"].is_u64()), "{sent:?}");

    let list = async || answer(&["--node", api, "kafka", "dlq", "list"]).await["entries"].as_array().unwrap().clone();
    let letter = until("a letter", async || list().await.first().cloned()).await;
    assert_eq!((&letter["code"], &letter["offset"]), (&json!("undecodable"), &sent[1]["offset"]), "{letter}");
    let id = letter["id"].as_str().unwrap().to_owned();
    let whole = answer(&["--node", api, "kafka", "dlq", "show", &id]).await;
    assert_eq!(whole["value"]["text"], "{\"type\": \"sha256\"");
    assert!(whole["headers"].as_array().unwrap().iter().any(|header| header["name"] == "idempotency-key"));

    let tail = ["kafka", "tail", "--bootstrap", kafka, "--from", "beginning", "--timeout", "60", "--count", "1"];
    let (code, buried) = command(&[&tail[..], &["--topic", "ciro.jobs.dlq"]].concat()).await;
    assert_eq!((code, &buried[0]["headers"]["dlq.error.code"]), (0, &json!("undecodable")), "{buried:?}");
    assert_eq!(buried[0]["headers"]["dlq.id"], id.as_str());

    answer(&["--node", api, "kafka", "dlq", "replay", &id]).await;
    let again = until("it to fail again", async || {
        let all = list().await;
        all.iter().find(|letter| letter["id"] != id.as_str()).cloned().filter(|_| all.len() == 1)
    });
    let again = again.await;
    assert_eq!(again["attempts"], 2, "{again}");
    answer(&["--node", api, "kafka", "dlq", "drop", again["id"].as_str().unwrap()]).await;
    assert!(list().await.is_empty());

    // The good one is a job, and its end is published.
    let jobs = answer(&["--node", api, "job", "list"]).await;
    assert_eq!((jobs["jobs"].as_array().map(Vec::len), &jobs["jobs"][0]["source"]), (Some(1), &json!("kafka")));
    let job = jobs["jobs"][0]["id"].as_str().unwrap();
    answer(&["--node", api, "job", "cancel", job]).await;
    let (code, results) = command(&tail).await;
    assert_eq!((code, &results[0]["value"]["state"], &results[0]["key"]), (0, &json!("cancelled"), &json!(job)));

    let stats = answer(&["--node", api, "kafka", "stats"]).await;
    let of = |name: &str| stats["topics"].as_array().unwrap().iter().find(|topic| topic["topic"] == name).cloned();
    let read = of("ciro.jobs").unwrap();
    assert_eq!((&read["messages_in"], &read["messages_out"]), (&json!(3), &json!(1)), "{stats}");
    assert!(of("ciro.jobs.dlq").unwrap()["messages_out"].as_u64() >= Some(1), "{stats}");
    let status = answer(&["--node", api, "kafka", "status"]).await;
    let next: u64 = status["intake"].as_array().unwrap().iter().filter_map(|of| of["next_offset"].as_u64()).sum();
    assert_eq!(next, 3, "{status}");
}
