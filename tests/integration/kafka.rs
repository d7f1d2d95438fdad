//! What a node says and does about Kafka while it is disabled.

use serde_json::{Value, json};

use crate::node::Node;

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
