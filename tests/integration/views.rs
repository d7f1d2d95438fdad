//! What the node says of itself, and the shapes of what is disabled.

use serde_json::{Value, json};

use crate::node::Node;

#[tokio::test]
async fn status_and_health_tell_the_node() {
    let node = Node::start().await;
    let status = node.get("/status").await;
    for (field, value) in [
        ("role", json!("leader")),
        ("environment", json!("test")),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("ready", json!(true)),
    ] {
        assert_eq!(status.body[field], value, "{field}");
    }
    assert_eq!(status.body["leader_id"], status.body["node_id"]);
    assert_eq!(status.body["members"].as_array().unwrap().len(), 1);
    assert_eq!(status.body["state_hash"].as_str().unwrap().len(), 66);
    assert!(status.body["applied_index"].as_u64() <= status.body["committed_index"].as_u64());
    assert_eq!(status.body["jobs"].as_object().unwrap().len(), 6);
    assert_eq!(status.body["workers"].as_object().unwrap().len(), 6);
    assert_eq!(status.header("x-ciro-node"), status.body["node_id"].as_str().unwrap());
    assert_eq!((status.header("x-ciro-role"), status.header("x-ciro-staleness-ms")), ("leader", "0"));

    let health = node.get("/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.text);
    let states: Vec<_> = ["raft", "storage", "mesh", "workers", "kafka", "blockchain", "database"]
        .iter()
        .map(|part| health.body["components"][part]["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["healthy", "healthy", "healthy", "degraded", "disabled", "disabled", "disabled"]);
    assert_eq!(node.get("/health/live").await.status, 200);
    assert_eq!(node.get("/health/ready").await.body["status"], "ready");
}

#[tokio::test]
async fn metrics_come_in_two_forms() {
    let node = Node::start_with(&[("CIRO__METRICS__ENABLED", "true")]).await;
    let text = node.get("/metrics").await;
    assert!(text.header("content-type").starts_with("application/openmetrics-text"));
    assert!(text.text.ends_with("# EOF\n") && text.text.contains("ciro_jobs"), "{}", text.text);
    assert!(text.text.contains("route=\"/openapi.json\""), "{}", text.text);
    for ask in
        [node.ask("GET", "/metrics?format=json"), node.ask("GET", "/metrics").header("accept", "application/json")]
    {
        let answer = ask.send().await;
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(answer.body["metrics"].is_object());
    }
    let history = node.get("/metrics/history?name=jobs_pending&from=2020-01-01T00:00:00Z&step=10").await;
    assert!(history.body["series"]["jobs_pending"].is_array(), "{}", history.text);
}

#[tokio::test]
async fn the_mesh_and_the_cluster_are_shown() {
    let node = Node::start().await;
    let stats = node.get("/network/stats").await;
    assert!(!stats.body["listening"].as_array().unwrap().is_empty());
    assert!(!stats.body["topics"].as_array().unwrap().is_empty(), "{}", stats.text);
    assert_eq!(node.get("/network/peers?limit=5").await.body["peers"], json!([]));
    let health = node.get("/network/health").await;
    assert_eq!((&health.body["status"], &health.body["members"]), (&json!("healthy"), &json!(0)));

    let cluster = node.get("/cluster?consistency=linearizable").await;
    let member = &cluster.body["members"][0];
    assert_eq!((&member["voter"], &member["lag"]), (&json!(true), &json!(0)), "{}", cluster.text);
    assert_eq!(cluster.body["voters"], json!([cluster.body["node_id"]]));
    assert_eq!(cluster.body["learners"], json!([]));
    assert!(cluster.body["storage"]["free_bytes"].as_u64() > Some(0));

    assert_eq!((&cluster.body["feature_level"], &member["newest_level"]), (&json!(1), &json!(1)));
    let raised = node.ask("POST", "/cluster/feature-level").send().await;
    assert_eq!((raised.status, &raised.body), (200, &json!({"feature_level": 1, "raised": false})), "{}", raised.text);

    let stranger = ciro::domain::PeerId([7; 32]).to_string();
    let refused = node.post("/cluster/transfer-leadership", &json!({"to": stranger})).await;
    assert_eq!((refused.status, refused.code()), (409, "conflict"), "{}", refused.text);
    let refused = node.post("/cluster/transfer-leadership", &json!({"to": "me"})).await;
    assert_eq!((refused.status, refused.code()), (422, "invalid_field"));
}

#[tokio::test]
async fn kafka_and_the_chain_are_truthfully_disabled() {
    let node = Node::start().await;
    let shapes: [(&str, &[&str]); 4] = [
        (
            "/kafka/status",
            &[
                "bootstrap_servers",
                "mode",
                "delivery",
                "cluster_id",
                "brokers",
                "intake",
                "journal_cursor",
                "dead_letters",
                "last_error",
            ],
        ),
        (
            "/blockchain/status",
            &[
                "rpc_url",
                "chain_id",
                "block_number",
                "job_manager_address",
                "contract",
                "account_address",
                "balance",
                "nonce",
                "pending_transactions",
                "journal_cursor",
                "last_error",
            ],
        ),
        ("/kafka/stats", &["topics"]),
        ("/blockchain/metrics", &["transactions_sent", "fees_total"]),
    ];
    for (path, fields) in shapes {
        let answer = node.get(path).await;
        assert_eq!(answer.body["state"], "disabled", "{path}");
        let body = answer.body.as_object().unwrap();
        assert!(fields.iter().all(|field| body.contains_key(*field)), "{path}: {}", answer.text);
    }
    assert_eq!(node.get("/kafka/dead-letter-queue").await.body["entries"], json!([]));
    assert_eq!(node.get("/blockchain/transactions").await.body["transactions"], json!([]));
}

#[tokio::test]
async fn pages_are_whole_and_load_nothing_from_elsewhere() {
    let node = Node::start().await;
    for path in ["/", "/docs"] {
        let page = node.get(path).await;
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
        assert!(!page.text.contains("src=\"http") && !page.text.contains("href=\"http"), "{path}");
    }
    assert!(node.get("/docs").await.text.contains("id=\"invalid_field\""), "problem types lead here");
    let document = node.get("/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["paths"].as_object().map(serde_json::Map::len), Some(54));
}

#[tokio::test]
async fn head_and_options_are_answered_without_a_body() {
    let node = Node::start().await;
    for path in ["/health", "/jobs", "/", "/openapi.json"] {
        let (head, get) = (node.ask("HEAD", path).send().await, node.get(path).await);
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert!(head.header("content-length").parse::<u64>().unwrap() > 0, "{path}");
    }
    let options = node.ask("OPTIONS", "/jobs/batch").send().await;
    assert_eq!((options.status, options.header("allow"), &options.body), (204, "POST, OPTIONS", &Value::Null));
}
