//! What a node says and does about the chain: while it is disabled, and with an endpoint that nobody answers at.

use std::net::TcpListener;
use std::time::Duration;

use ciro::clock;
use serde_json::{Value, json};

use crate::node::Node;

const COORDINATOR: &str = env!("CARGO_BIN_EXE_ciro-coordinator");

/// Anything these stories wait for takes less, on a machine shared with compilers too.
const LIMIT: Duration = Duration::from_secs(60);

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

/// Runs `ciro-coordinator --json …`: its exit code, and the document it wrote.
async fn command(args: &[&str]) -> (i32, Value) {
    let output = tokio::process::Command::new(COORDINATOR).arg("--json").args(args).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_node_without_the_chain_says_so_and_makes_nothing_up() {
    let node = Node::start().await;
    let status = node.get("/blockchain/status?consistency=linearizable").await.body;
    for (field, value) in [
        ("state", json!("disabled")),
        ("rpc_url", Value::Null),
        ("chain_id", Value::Null),
        ("block_number", Value::Null),
        ("job_manager_address", Value::Null),
        ("account_address", Value::Null),
        ("balance", Value::Null),
        ("nonce", Value::Null),
        ("settlement", Value::Null),
        ("recorded", Value::Null),
        ("epoch", json!(0)),
        ("next_nonce", Value::Null),
        ("pending_transactions", json!(0)),
        ("journal_cursor", Value::Null),
        ("unsettled", json!(0)),
        ("parked", json!(0)),
        ("alarms", json!([])),
        ("as_of", Value::Null),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    assert_eq!(status["contract"]["capabilities"], json!([]));
    let figures = node.get("/blockchain/metrics").await.body;
    assert_eq!((&figures["transactions_sent"], &figures["fees_total"]), (&json!(0), &json!("0")));
    assert_eq!((&figures["confirm_p50_ms"], &figures["reverts_by_reason"]), (&Value::Null, &json!({})));
    let health = node.get("/health").await;
    assert_eq!(health.body["components"]["blockchain"]["status"], "disabled");
    let metrics = node.get("/metrics?format=json").await.body;
    assert!(metrics["metrics"]["ciro_chain_connected"].is_null(), "disabled is not disconnected");
    let alarms = metrics["metrics"]["ciro_chain_alarm"]["samples"].as_array().unwrap();
    assert!(alarms.len() > 5 && alarms.iter().all(|alarm| alarm["value"] == 0.0), "{alarms:?}");

    let events = node.get("/blockchain/events").await;
    assert_eq!((events.status, events.code()), (501, "operation_not_available"));
    let submission = &node.get("/openapi.json").await.body["components"]["schemas"]["Submission"]["properties"];
    assert_eq!(submission["settlement"]["enum"], json!(["none", null]), "nothing else would be taken");
}

#[tokio::test]
async fn lists_of_transactions_and_letters_take_good_parameters_and_refuse_bad_ones() {
    let node = Node::start().await;
    let queue = "/blockchain/dead-letter-queue";
    let job = "018f0000-0000-7000-8000-0000000000ff";
    for path in [
        "/blockchain/transactions".to_owned(),
        format!("/blockchain/transactions?limit=5&state=reverted&job={job}&cursor={}", "0".repeat(32)),
        "/blockchain/transactions?consistency=linearizable&state=prepared".to_owned(),
    ] {
        let page = node.get(&path).await;
        assert_eq!(
            (page.status, &page.body["transactions"], &page.body["next_cursor"]),
            (200, &json!([]), &Value::Null)
        );
    }
    let page = node.get(&format!("{queue}?limit=10&cursor={}", "0".repeat(16))).await.body;
    assert_eq!((&page["size"], &page["entries"]), (&json!(0), &json!([])));
    for (path, field) in [
        ("/blockchain/transactions?state=sent", "state"),
        ("/blockchain/transactions?job=7", "job"),
        ("/blockchain/transactions?limit=0", "limit"),
        ("/blockchain/transactions?cursor=zz", "cursor"),
        ("/blockchain/dead-letter-queue?cursor=00", "cursor"),
        ("/blockchain/events?from=-1", "from"),
        ("/blockchain/events?to=x", "to"),
        ("/blockchain/status?limit=1", "limit"),
    ] {
        let answer = node.get(path).await;
        assert_eq!((answer.status, &answer.body["field"]), (400, &json!(field)), "{path}: {}", answer.text);
    }
    for (id, code) in [("7", "unknown_dead_letter"), ("x", "invalid_id"), ("0", "invalid_id"), ("07", "invalid_id")] {
        for (method, path) in [
            ("GET", format!("{queue}/{id}")),
            ("POST", format!("{queue}/{id}/retry")),
            ("DELETE", format!("{queue}/{id}")),
        ] {
            let answer = node.ask(method, &path).send().await;
            assert_eq!((answer.status, answer.code()), (404, code), "{method} {path}");
            assert!(answer.body["hint"].as_str().unwrap().contains(queue), "{}", answer.text);
        }
    }
    for (id, code) in [(job, "unknown_job"), ("7", "invalid_id")] {
        let answer = node.get(&format!("/blockchain/jobs/{id}")).await;
        assert_eq!((answer.status, answer.code()), (404, code), "{id}");
    }
}

#[tokio::test]
async fn a_job_that_is_not_settled_says_so_everywhere() {
    let node = Node::start().await;
    let job = node.post("/jobs", &json!({"type": "sha256", "payload": "aGk=", "settlement": "none"})).await;
    assert_eq!(job.status, 201, "{}", job.text);
    assert_eq!((&job.body["settlement"], &job.body["awaits_chain"]), (&json!({"policy": "none"}), &json!(false)));
    let id = job.body["id"].as_str().unwrap();
    let full = node.get(&format!("/blockchain/jobs/{id}?consistency=linearizable")).await.body;
    assert_eq!((&full["settlement"]["policy"], &full["transactions"]), (&json!("none"), &json!([])));
    assert_eq!((&full["escrow"], &full["parked"], &full["again"]), (&Value::Null, &json!([]), &json!([])));
    for settlement in [json!("settle_later"), json!({"policy": "settle_later"}), json!({}), json!("chain")] {
        let body = json!({"type": "sha256", "payload": "aGk=", "max_price": "9", "settlement": settlement});
        let refused = node.post("/jobs", &body).await;
        assert_eq!((refused.status, refused.code()), (422, "not_available"), "{settlement}");
        assert_eq!(refused.body["field"], "settlement", "{settlement}");
    }
    let typed = node.post("/jobs", &json!({"type": "sha256", "payload": "", "settlement": 5})).await;
    assert_eq!((typed.status, typed.code()), (422, "invalid_field"));
}

#[tokio::test]
async fn an_operators_slip_is_refused_by_field() {
    let node = Node::start().await;
    let reset = |chain: &str, contract: &str, account: &str| json!({"chain_id": chain, "job_manager_address": contract, "account_address": account});
    let cases = [
        (reset("", "0x1", "0x2"), "invalid_field", "chain_id"),
        (reset(&"x".repeat(32), "0x1", "0x2"), "invalid_field", "chain_id"),
        (reset("SN_SEPOLIA", "1", "0x2"), "invalid_field", "job_manager_address"),
        (reset("SN_SEPOLIA", "0x1", "0xg"), "invalid_field", "account_address"),
        (json!({"chain_id": "SN_SEPOLIA"}), "missing_field", "job_manager_address"),
        (json!({"chain": "SN_SEPOLIA"}), "unknown_field", "chain"),
    ];
    for (body, code, field) in cases {
        let answer = node.post("/blockchain/reset", &body).await;
        assert_eq!((answer.status, answer.code(), &answer.body["field"]), (422, code, &json!(field)), "{body}");
    }
    let refused = node.post("/blockchain/reset", &reset("SN_SEPOLIA", "0x1", "0x2")).await;
    assert_eq!((refused.status, refused.code()), (501, "operation_not_available"), "it can not tell: {}", refused.text);
    let forgotten = node.ask("DELETE", "/blockchain/cursor").send().await;
    assert_eq!((forgotten.status, &forgotten.body["changed"]), (200, &json!(false)), "nothing was kept");
}

#[tokio::test]
async fn the_command_line_shows_a_chain_that_is_disabled() {
    let node = Node::start().await;
    let at = ["--node", node.api.as_str(), "blockchain"];
    let ask = async |words: &[&str]| command(&[&at[..], words].concat()).await;
    assert_eq!(ask(&["status"]).await.1["state"], "disabled");
    assert_eq!(ask(&["transactions", "--state", "prepared"]).await, (0, json!({"transactions": []})));
    assert_eq!(ask(&["dlq", "list"]).await, (0, json!({"entries": []})));
    assert_eq!(ask(&["metrics"]).await.1["fees_total"], "0");
    assert_eq!(ask(&["forget"]).await.1["changed"], false);
    assert_eq!(ask(&["events"]).await.0, 1, "not available");
    assert_eq!(ask(&["dlq", "retry", "7"]).await.0, 4, "not found");
    assert_eq!(ask(&["reset", "--yes"]).await.0, 2, "there is nothing to accept");
    let job = node.post("/jobs", &json!({"type": "sha256", "payload": "aGk="})).await;
    let id = job.body["id"].as_str().unwrap();
    assert_eq!(ask(&["job", id]).await.1["settlement"]["policy"], "none");
}

/// An address at which nobody answers.
fn nobody() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

#[cfg(feature = "chain")]
#[tokio::test]
async fn a_node_whose_chain_is_away_takes_jobs_and_tells_what_they_wait_for() {
    let url = nobody();
    let node = Node::start_with(&[
        ("CIRO__BLOCKCHAIN__ENABLED", "true"),
        ("CIRO__BLOCKCHAIN__RPC_URL", url.as_str()),
        ("CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", "0xc0"),
        ("CIRO__BLOCKCHAIN__ACCOUNT_ADDRESS", "0xacc"),
        ("CIRO__BLOCKCHAIN__INSECURE_DEV_KEY", "0x1234"),
        ("CIRO__BLOCKCHAIN__SETTLEMENT", "settle_later"),
        ("CIRO__BLOCKCHAIN__DEFAULT_MAX_PRICE", "70"),
        ("CIRO__BLOCKCHAIN__MAX_ESCROW", "140"),
    ])
    .await;
    let down = until("the node to notice", async || {
        let status = node.get("/blockchain/status").await.body;
        (status["state"] == "down").then_some(status)
    });
    let status = down.await;
    assert_eq!((&status["job_manager_address"], &status["account_address"]), (&json!("0xc0"), &json!("0xacc")));
    assert_eq!((&status["block_number"], &status["alarms"][0]["code"]), (&Value::Null, &json!("down")), "{status}");
    assert_eq!(
        (&status["settlement"]["default_max_price"], &status["settlement"]["max_escrow"]),
        (&json!("70"), &json!("140"))
    );
    assert_eq!(status["settlement"]["charge_clients"], false);
    assert!(!status.to_string().contains("1234"), "the key is nobody's business");
    let health = node.get("/health").await;
    assert_eq!((health.status, &health.body["components"]["blockchain"]["status"]), (200, &json!("degraded")));
    let events = node.get("/blockchain/events").await;
    assert_eq!((events.status, events.code()), (503, "chain_unreachable"));

    let submit = async |fields: Value| submit(&node, fields).await;
    let later = submit(json!({})).await;
    assert_eq!((later.status, &later.body["max_price"]), (201, &json!("70")), "{}", later.text);
    assert_eq!(later.body["settlement"]["policy"], "settle_later");
    assert_eq!((&later.body["settlement"]["state"], &later.body["awaits_chain"]), (&json!("waiting"), &json!(false)));
    let first = submit(json!({"settlement": "register_before_distribution", "max_price": "9"})).await;
    assert_eq!((first.status, &first.body["awaits_chain"]), (201, &json!(true)), "{}", first.text);
    let id = first.body["id"].as_str().unwrap();
    let explained = node.get(&format!("/jobs/{id}/explain")).await.body;
    assert_eq!((&explained["reason"], &explained["queue_position"]), (&json!("awaits_chain"), &Value::Null));
    let detail = explained["detail"].as_str().unwrap();
    assert!(detail.contains("no transaction yet; the chain is down"), "{detail}");
    let full = node.get(&format!("/blockchain/jobs/{id}")).await.body;
    assert_eq!((&full["escrow"], &full["settlement"]["state"]), (&json!("9"), &json!("waiting")));
    let unsettled = submit(json!({"settlement": "none"})).await;
    assert_eq!((unsettled.status, &unsettled.body["max_price"]), (201, &Value::Null));
    what_can_not_be_settled_is_refused(&node).await;
    let reset = json!({"chain_id": "SN_SEPOLIA", "job_manager_address": "0xc0", "account_address": "0xacc"});
    assert_eq!(node.post("/blockchain/reset", &reset).await.status, 409, "it does not see that chain");
    let forget = node.ask("DELETE", "/blockchain/cursor").send().await;
    assert_eq!((forget.status, forget.code()), (409, "conflict"), "the chain is enabled");
}

#[cfg(feature = "chain")]
async fn submit(node: &Node, fields: Value) -> crate::node::Answer {
    let mut body = json!({"type": "sha256", "payload": "aGk="});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    node.post("/jobs", &body).await
}

#[cfg(feature = "chain")]
async fn what_can_not_be_settled_is_refused(node: &Node) {
    for (fields, code, field) in [
        (json!({"settlement": "chain"}), "invalid_field", "settlement"),
        (json!({"settlement": {"policy": "x"}}), "invalid_field", "settlement.policy"),
        (json!({"settlement": {"confirmation": "sure"}}), "invalid_field", "settlement.confirmation"),
        (json!({"settlement": {"polcy": "none"}}), "unknown_field", "settlement.polcy"),
        (json!({"max_price": "0"}), "invalid_field", "max_price"),
        (json!({"max_price": "141"}), "invalid_field", "max_price"),
        (json!({"redundancy": 3}), "invalid_field", "max_price"),
        (json!({"client_address": "0xacd"}), "not_available", "client_address"),
    ] {
        let refused = submit(node, fields.clone()).await;
        assert_eq!((refused.status, refused.code(), &refused.body["field"]), (422, code, &json!(field)), "{fields}");
        assert!(!refused.body["hint"].as_str().unwrap_or_default().is_empty(), "{fields}: {}", refused.text);
    }
    for fields in [
        json!({"client_address": "0xACC", "max_price": "140"}),
        json!({"client_address": "0xacd", "settlement": "none", "max_price": "141"}),
    ] {
        assert_eq!(submit(node, fields.clone()).await.status, 201, "{fields}");
    }
}
