//! The brokers of the stories: a real Apache Kafka, and the mock with its faults.
//!
//! One Apache Kafka serves all stories of a test process; `scripts/kafka.sh`
//! fetches and starts it when the first story asks, and stops it when the process
//! ends, however it ends. A story that changes the broker for good starts its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::sync::OnceCell;

static SHARED: OnceCell<Apache> = OnceCell::const_new();
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// An Apache Kafka in KRaft mode, one node.
pub struct Apache {
    pub bootstrap: String,
    dir: PathBuf,
}

pub struct Awake<'a>(&'a Apache);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

impl Apache {
    /// The one that all stories use.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(async || Self::start(None)).await
    }

    /// One more that has a listener for those who log in beside the one for everybody.
    pub fn start_with_login(user: &str, password: &str) -> Self {
        Self::start_as(&["--sasl", &format!("{user}:{password}")])
    }

    /// Where one logs in.
    pub fn with_login(&self) -> String {
        let port = fs::read_to_string(self.dir.join("sasl-port")).expect("a broker with a login");
        format!("127.0.0.1:{}", port.trim())
    }

    /// One more. `port`: where it listens, else anywhere.
    pub fn start(port: Option<u16>) -> Self {
        match port.map(|port| port.to_string()) {
            Some(port) => Self::start_as(&["--port", &port]),
            None => Self::start_as(&[]),
        }
    }

    fn start_as(more: &[&str]) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ciro-kafka-{}-{number}", std::process::id()));
        // What it says about fetching and starting goes past the test runner, which would keep it back.
        let us = std::process::id().to_string();
        let arguments = [&["start", "--for", us.as_str()], more].concat();
        let bootstrap = script(&dir, &arguments).trim().to_owned();
        Self { bootstrap, dir }
    }

    pub fn port(&self) -> u16 {
        self.bootstrap.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port")
    }

    /// In good order; its data stay.
    pub fn stop(&self) {
        script(&self.dir, &["stop"]);
    }

    /// Again, with the data and at the address it had.
    pub fn start_again(&self) {
        let again = script(&self.dir, &["start"]);
        assert_eq!(again.trim(), self.bootstrap);
    }

    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// For whoever pauses it: a story that fails must not leave it asleep for the next.
    pub fn awake_in_the_end(&self) -> Awake<'_> {
        Awake(self)
    }

    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let status: Value = serde_json::from_str(&script(&self.dir, &["status", "--json"])).unwrap();
        let pid = status["pid"].as_i64().unwrap_or_else(|| panic!("the broker does not run: {status}"));
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub fn create_topic(&self, topic: &str, partitions: u32) {
        let partitions = partitions.to_string();
        self.tool(&["TopicCommand", "--create", "--topic", topic, "--partitions", &partitions]);
    }

    pub fn add_partitions(&self, topic: &str, partitions: u32) {
        let partitions = partitions.to_string();
        self.tool(&["TopicCommand", "--alter", "--topic", topic, "--partitions", &partitions]);
    }

    /// Deletes what a partition holds below `offset`.
    pub fn delete_records(&self, topic: &str, partition: u32, offset: u64) {
        let file = self.dir.join(format!("delete-{topic}-{partition}.json"));
        let what = serde_json::json!({
            "version": 1,
            "partitions": [{"topic": topic, "partition": partition, "offset": offset}],
        });
        fs::write(&file, what.to_string()).unwrap();
        self.tool(&["DeleteRecordsCommand", "--offset-json-file", file.to_str().unwrap()]);
    }

    fn tool(&self, arguments: &[&str]) -> String {
        script_with(&self.dir, &[&["tool"], arguments])
    }
}

/// What `scripts/kafka.sh` prints. It must succeed.
fn script(dir: &Path, arguments: &[&str]) -> String {
    script_with(dir, &[arguments])
}

/// The first of `arguments[0]` is the command; the run directory comes behind it.
fn script_with(dir: &Path, arguments: &[&[&str]]) -> String {
    let arguments: Vec<&str> = arguments.concat();
    let (command, rest) = arguments.split_first().expect("a command");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg(command)
        .arg("--dir")
        .arg(dir)
        .args(rest)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "scripts/kafka.sh {arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
