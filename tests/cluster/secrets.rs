//! What must stay secret is in no log, however much is logged, in no answer, and in no printed configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::cluster::Cluster;
use crate::kafka_mock::DevBroker;
use crate::programs::{clean, coordinator, run};
use crate::{secs, until};

/// Values that nobody may see, and the keys they are for. Each is found again by what is unmistakable in it.
const SASL_NAME: &str = "secret-name-9f3b";
const SASL_PASSWORD: &str = "secret-word-51c7";
const KEYSTORE_PASSWORD: &str = "secret-keystore-e20d";
const ENDPOINT: &str = "http://secret-user-77aa:secret-pass-40bd@127.0.0.1:1/secret-path-c3f1?key=secret-key-8e66";
const PRIVATE_KEY: &str = "0x5ec3e7ab1e0000000000000000000000000000000000000000000000d15c10e";

const CALLBACK_SECRET: &str = "secret-callback-2b90";
const CALLBACK_URL: &str = "http://127.0.0.1:2/secret-hook-1f6a?token=secret-token-c05e";

const TOLD: [&str; 11] = [
    SASL_NAME,
    SASL_PASSWORD,
    KEYSTORE_PASSWORD,
    "secret-user-77aa",
    "secret-pass-40bd",
    "secret-path-c3f1",
    "secret-key-8e66",
    "5ec3e7ab1e",
    CALLBACK_SECRET,
    "secret-hook-1f6a",
    "secret-token-c05e",
];

fn keeps_its_secrets(what: &str, text: &str) {
    let said = text.lines().find(|line| TOLD.iter().any(|secret| line.to_lowercase().contains(secret)));
    assert_eq!(said, None, "{what} tells a secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_in_no_log_no_answer_and_no_printed_configuration() {
    let broker = DevBroker::start(&[("ciro.jobs", 1), ("ciro.results", 1), ("ciro.workers", 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    let (key, keystore) = (dir.path().join("key"), dir.path().join("keystore.json"));
    fs::write(&key, PRIVATE_KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut import = clean(coordinator());
    import.args(["blockchain", "account", "import", "--key-file"]).arg(&key).arg("--keystore").arg(&keystore);
    let address = run(import.args(["--json"]).env("CIRO_KEYSTORE_PASSWORD", KEYSTORE_PASSWORD));
    let address: serde_json::Value = serde_json::from_str(&address).unwrap();
    let settings = [
        ("RUST_LOG", "trace"),
        ("CIRO__KAFKA__ENABLED", "true"),
        ("CIRO__KAFKA__MODE", "external"),
        ("CIRO__KAFKA__BOOTSTRAP_SERVERS", &broker.bootstrap),
        ("CIRO__KAFKA__SECURITY_PROTOCOL", "sasl_plaintext"),
        ("CIRO__KAFKA__SASL_MECHANISM", "PLAIN"),
        ("CIRO__KAFKA__SASL_USERNAME", SASL_NAME),
        ("CIRO__KAFKA__SASL_PASSWORD", SASL_PASSWORD),
        ("CIRO__BLOCKCHAIN__ENABLED", "true"),
        ("CIRO__BLOCKCHAIN__RPC_URL", ENDPOINT),
        ("CIRO__BLOCKCHAIN__CHAIN_ID", "SN_SEPOLIA"),
        ("CIRO__BLOCKCHAIN__JOB_MANAGER_ADDRESS", "0x1234567890abcdef1234567890abcdef"),
        ("CIRO__BLOCKCHAIN__ACCOUNT_ADDRESS", address["account_address"].as_str().unwrap()),
        ("CIRO__BLOCKCHAIN__KEYSTORE", keystore.to_str().unwrap()),
        ("CIRO_KEYSTORE_PASSWORD", KEYSTORE_PASSWORD),
        ("CIRO__CALLBACKS__SECRET", CALLBACK_SECRET),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut print = clean(coordinator());
    let printed = run(print.args(["start", "--environment", "test", "--print-config"]).envs(settings.clone()));
    assert!(printed.contains("sasl_password"), "{printed}");
    keeps_its_secrets("the printed configuration", &printed);

    let mut cluster = Cluster::start_as(1, 1, "ciro-secrets", settings.to_vec()).await;
    until(secs(30), "the node has failed to reach the chain and to log in to Kafka", async || {
        let chain = cluster.client.get(0, "/blockchain/status").await?.body;
        let kafka = cluster.client.get(0, "/kafka/status").await?.body;
        (!chain["last_error"].is_null() && !kafka["last_error"].is_null()).then_some(())
    })
    .await;
    for path in ["/status", "/health", "/blockchain/status", "/kafka/status", "/kafka/stats", "/cluster"] {
        let answer = cluster.client.get(0, path).await.expect(path);
        keeps_its_secrets(path, &format!("{:?} {}", answer.headers, answer.body));
    }
    let body = json!({"type": "nobody_runs_it", "payload": "", "settlement": "none", "callback_url": CALLBACK_URL});
    let made = cluster.client.post(0, "/jobs", "told-elsewhere", &body).await.expect("the node answers").body;
    let path = format!("/jobs/{}", made["id"].as_str().unwrap());
    let gone = cluster.client.delete(0, &path).await.expect("the node answers").body;
    until(secs(30), "the callback was tried", async || {
        cluster.log(0).contains("receiver of callbacks does not answer").then_some(())
    })
    .await;
    let read = cluster.client.get(0, &path).await.expect("the node answers").body;
    keeps_its_secrets("a job", &format!("{made} {gone} {read}"));
    cluster.kill(0);
    let log = cluster.log(0);
    assert!(log.contains("TRACE") && log.contains("127.0.0.1:1"), "everything is logged");
    keeps_its_secrets("the log", &log);
    cluster.restart(0).await;
    cluster.finish().await;
}
