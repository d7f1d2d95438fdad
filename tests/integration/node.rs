//! A node as a child process, and a client that holds it to its contract.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ciro::clock;
use reqwest::Method;
use serde_json::Value;

use crate::contract;

const COORDINATOR: &str = env!("CARGO_BIN_EXE_ciro-coordinator");

/// Longest wait for a node to be ready, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Node {
    child: Child,
    pub api: String,
    pub http: reqwest::Client,
    contract: Value,
    dir: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A request in the making.
pub struct Ask<'a> {
    node: &'a Node,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
}

impl Node {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("ciro-integration-").tempdir().unwrap();
        let config = dir.path().join("node.toml");
        run(Command::new(COORDINATOR).args(["generate-config", "test"]).arg(&config));
        let key = dir.path().join("node.key");
        let id = run(Command::new(COORDINATOR).args(["identity", "--key-file"]).arg(&key));
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(COORDINATOR)
            .args(["start", "--config"])
            .arg(&config)
            .env("CIRO__NODE__DATA_DIR", dir.path().join("data"))
            .env("CIRO__API__BIND", "127.0.0.1:0")
            .env("CIRO__NETWORK__P2P_PORT", "0")
            .env("CIRO__NODE__KEY_FILE", &key)
            // Nobody dials the only member, so any port will do.
            .env("CIRO__CLUSTER__INITIAL_MEMBERS", format!("/ip4/127.0.0.1/tcp/1/p2p/{}", id.trim()))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        let mut node = Self { child, api: String::new(), http, contract: Value::Null, dir };
        node.api = node.ready().await;
        node.contract = node.get("/openapi.json").await.body;
        node
    }

    /// Waits for the card that the node writes when it is ready; its API address.
    async fn ready(&mut self) -> String {
        let start = clock::instant();
        let card = self.dir.path().join("data/node.json");
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the node ended: {status}\n{}", self.log());
            }
            if let Some(api) = api_of(&card) {
                return api;
            }
            assert!(start.elapsed() < START_LIMIT, "the node is not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A directory for what runs beside the node; goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the mesh of this node can be reached by TCP.
    pub fn p2p(&self) -> String {
        let card: Value = serde_json::from_slice(&fs::read(self.dir.path().join("data/node.json")).unwrap()).unwrap();
        let addresses = card["p2p"].as_array().unwrap().iter().filter_map(Value::as_str);
        let tcp = addresses.into_iter().find(|address| address.contains("/tcp/")).unwrap();
        if tcp.contains("/p2p/") { tcp.to_owned() } else { format!("{tcp}/p2p/{}", card["node_id"].as_str().unwrap()) }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Ask { node: self, method, path: path.to_owned(), headers: vec![], body: None }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path).json(body).send().await
    }

    /// Asks the node to stop; true if it did so within `limit`, without a failure.
    pub async fn stop(&mut self, limit: Duration) -> bool {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let start = clock::instant();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            println!("log of the node:\n{}", self.log());
        }
    }
}

/// Runs a command that ends, and returns what it says.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn api_of(card: &Path) -> Option<String> {
    let card: Value = serde_json::from_slice(&fs::read(card).ok()?).ok()?;
    card["api"].as_str().map(str::to_owned)
}

impl Ask<'_> {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.bytes("application/json", body.to_string())
    }

    pub fn bytes(mut self, media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        if media_type.is_empty() { self } else { self.header("content-type", media_type) }
    }

    /// Sends, and checks what every answer owes: headers, a documented status, a problem for a fault.
    pub async fn send(self) -> Answer {
        let Self { node, method, path, headers, body } = self;
        let mut request = node.http.request(method.clone(), format!("{}{path}", node.api));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", node.log()));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer { status, headers, text, body };
        contract::hold(&node.contract, method.as_str(), &path, &answer);
        answer
    }
}
