//! Workers over HTTP: registered, listed, drained, resumed, unregistered.

use ciro::domain::PeerId;
use serde_json::{Value, json};

use crate::node::Node;

fn worker(key: u8, region: &str) -> Value {
    json!({
        "id": PeerId([key; 32]).to_string(),
        "capabilities": {
            "cpu_cores": 8, "ram_gb": 15.5, "gpu_count": 1, "gpu_memory_gb": 24, "job_types": ["sha256", "nlp"],
            "frameworks": ["torch"], "max_parallel_jobs": 4, "tee": "cpu",
        },
        "location": {"region": region, "country": "DE", "latitude": 52.5, "longitude": 13.4},
        "version": "1.0.0",
    })
}

#[tokio::test]
async fn a_worker_comes_drains_and_goes() {
    let node = Node::start().await;
    let made = node.post("/workers", &worker(7, "eu")).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = PeerId([7; 32]).to_string();
    let path = format!("/workers/{id}");
    assert_eq!(made.header("location"), path);
    assert_eq!(made.body["capabilities"]["ram_gb"], 15.5);
    assert_eq!(made.body["capabilities"]["tee"], "cpu");
    assert_eq!(made.body["location"]["latitude"], 52.5);
    assert_eq!((&made.body["reputation"], &made.body["max_parallel_jobs"]), (&json!(500), &json!(4)));
    assert_eq!((&made.body["load"], &made.body["last_heartbeat_at"]), (&Value::Null, &Value::Null));
    assert_eq!(node.post("/workers", &worker(7, "eu")).await.status, 200, "the same worker again");

    let drained = node.ask("POST", &format!("{path}/drain")).send().await;
    assert_eq!(drained.status, 200, "{}", drained.text);
    let resumed = node.ask("POST", &format!("{path}/resume")).send().await;
    assert_eq!(resumed.status, 200, "{}", resumed.text);
    let health = node.get(&format!("{path}/health")).await;
    assert_eq!((&health.body["heartbeat"], &health.body["reputation"]["score"]), (&Value::Null, &json!(500)));

    let gone = node.ask("DELETE", &path).send().await;
    assert_eq!((gone.status, gone.text.as_str()), (204, ""));
    assert_eq!(node.get(&path).await.code(), "unknown_worker");
    assert_eq!(node.ask("DELETE", &path).send().await.code(), "unknown_worker");
}

#[tokio::test]
async fn workers_are_filtered_and_paged() {
    let node = Node::start().await;
    for key in 1..=5 {
        node.post("/workers", &worker(key, if key < 3 { "eu" } else { "us" })).await;
    }
    let ids = async |query: &str| -> Vec<String> {
        let page = node.get(&format!("/workers?state=all&{query}")).await;
        page.body["workers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|worker| worker["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("region=eu").await.len(), 2);
    assert_eq!(ids("job_type=nlp").await.len(), 5);
    assert_eq!(ids("job_type=video").await.len(), 0);
    let first = node.get("/workers?state=all&limit=3").await;
    let cursor = first.body["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(ids(&format!("limit=3&cursor={cursor}")).await.len(), 2);
}

#[tokio::test]
async fn a_job_that_nobody_can_run_says_why() {
    let node = Node::start().await;
    node.post("/workers", &worker(7, "eu")).await;
    let body = json!({"type": "sha256", "payload": "", "requirements": {"min_cpu_cores": 64}});
    let id = node.post("/jobs", &body).await.body["id"].as_str().unwrap().to_owned();
    let why = node.get(&format!("/jobs/{id}/explain")).await;
    assert_eq!(why.body["reason"], "no_worker_fits", "{}", why.text);
    let lack = &why.body["workers"][0]["misfits"][0];
    assert!(lack["requirement"].as_str().unwrap().contains("cpu"), "{lack}");
    assert_eq!(why.body["workers"][0]["eligible"], false);
    let change = &why.body["changes"][0];
    assert_eq!((&change["requirement"], &change["would_do"]), (&json!("min_cpu_cores"), &json!("8")), "{}", why.text);
    assert_eq!(change["detail"], "if min_cpu_cores were 8, 1 worker would fit");
}

#[tokio::test]
async fn registrations_out_of_range_are_refused_by_name() {
    let node = Node::start().await;
    let cases = [
        ("id", json!("me"), "id"),
        ("id", json!(7), "id"),
        ("capabilities", Value::Null, "capabilities"),
        ("capabilities", json!({"cpu_cores": 0, "job_types": []}), "capabilities.cpu_cores"),
        ("capabilities", json!({"cpu_cores": 1, "job_types": ["No"]}), "capabilities.job_types"),
        ("capabilities", json!({"cpu_cores": 1, "job_types": [], "tee": "x"}), "capabilities.tee"),
        ("location", json!({"latitude": 100}), "location.latitude"),
        ("state", json!("online"), "state"),
    ];
    for (name, value, field) in cases {
        let mut body = worker(7, "eu");
        body[name] = value;
        let answer = node.post("/workers", &body).await;
        assert_eq!((answer.status, answer.body["field"].as_str()), (422, Some(field)), "{}", answer.text);
    }
    assert_eq!(node.get("/workers?state=all").await.body["workers"], json!([]));
}
