//! The development network: whom to kill, and how to have it back.
//!
//! Kills only processes that the network's own status names, and only if they
//! are ours by name.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::process::Command;

use super::DevnetArgs;
use super::cluster::Cluster;
use crate::clock;

/// Between two looks at something slow.
const LOOK: Duration = Duration::from_millis(100);

/// `{"nodes": [...], "workers": [...], "run_dir"}`, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
struct Status {
    nodes: Vec<Member>,
    run_dir: Option<PathBuf>,
    #[serde(default)]
    workers: Vec<WorkerProcess>,
    #[cfg(feature = "kafka")]
    #[serde(default)]
    kafka: Option<Broker>,
    #[serde(default)]
    chain: Option<Chain>,
}

#[cfg(feature = "kafka")]
#[derive(Clone, Debug, Deserialize)]
struct Broker {
    kind: String,
    pid: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
struct Chain {
    pid: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct WorkerProcess {
    pub index: u32,
    pub worker_id: Option<String>,
    pub pid: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Member {
    pub index: u32,
    pub role: String,
    pub api: String,
    #[serde(default)]
    p2p: String,
    pub pid: Option<i32>,
}

/// What a node needs to join.
pub(super) struct Network {
    /// The configuration of all nodes.
    pub config: PathBuf,
    /// Multiaddrs of the members, comma separated.
    pub addresses: String,
}

pub(super) struct Devnet {
    status: Source,
    restart: String,
}

enum Source {
    File(PathBuf),
    Command(String),
}

impl Devnet {
    pub(super) fn new(args: &DevnetArgs) -> Self {
        let status = match &args.devnet_status {
            Some(file) => Source::File(file.clone()),
            None => Source::Command(args.status_command.clone()),
        };
        Self { status, restart: args.restart_command.clone() }
    }

    pub(super) async fn members(&self) -> anyhow::Result<Vec<Member>> {
        Ok(self.status().await?.nodes)
    }

    pub(super) async fn workers(&self) -> anyhow::Result<Vec<WorkerProcess>> {
        Ok(self.status().await?.workers)
    }

    pub(super) async fn network(&self) -> anyhow::Result<Network> {
        let status = self.status().await?;
        let run_dir = status.run_dir.context("the network's status names no run_dir")?;
        let addresses: Vec<String> = status.nodes.into_iter().map(|node| node.p2p).collect();
        Ok(Network { config: run_dir.join("node.toml"), addresses: addresses.join(",") })
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let text = match &self.status {
            Source::File(path) => tokio::fs::read(path).await.with_context(|| format!("read {}", path.display()))?,
            Source::Command(command) => shell(command).await?,
        };
        serde_json::from_slice(&text).context("the network's status is not as expected")
    }

    pub(super) async fn restart(&self, member: &Member) -> anyhow::Result<()> {
        shell(&self.restart.replace("{index}", &member.index.to_string())).await.map(drop)
    }
}

impl Devnet {
    /// The leader and the others, once every node is up and one leads.
    pub(super) async fn settled(&self, cluster: &Cluster, patience: Duration) -> anyhow::Result<(Member, Vec<Member>)> {
        self.wait_ready(cluster, patience).await?;
        let deadline = clock::instant() + patience;
        loop {
            let mut members = self.members().await?;
            let leader = members.iter().position(|member| member.role == "leader");
            match leader.map(|at| members.swap_remove(at)) {
                Some(leader) if !members.is_empty() => return Ok((leader, members)),
                Some(_) => bail!("the network has one node only: nobody can take over"),
                None if clock::instant() > deadline => bail!("nobody leads"),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(super) async fn wait_ready(&self, cluster: &Cluster, patience: Duration) -> anyhow::Result<()> {
        let deadline = clock::instant() + patience;
        for member in self.members().await? {
            while !cluster.is_ready(&member.api).await {
                if clock::instant() > deadline {
                    bail!("node {} at {} is not ready after {} s", member.index, member.api, patience.as_secs());
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "kafka")]
impl Devnet {
    /// Every node, until what is returned is dropped.
    pub(super) async fn pause_nodes(&self) -> anyhow::Result<Paused> {
        let mut paused = Paused(vec![]);
        for member in self.members().await? {
            paused.add(member.pid, &format!("node {}", member.index), OURS)?;
        }
        Ok(paused)
    }

    /// The Kafka broker, until what is returned is dropped.
    pub(super) async fn pause_broker(&self) -> anyhow::Result<Paused> {
        let broker = self.status().await?.kafka.context("the network has no Kafka broker of its own")?;
        let mut paused = Paused(vec![]);
        let name = if broker.kind == "apache" { "java" } else { OURS };
        paused.add(broker.pid, "the broker", name)?;
        Ok(paused)
    }
}

impl Devnet {
    /// The Starknet node, until what is returned is dropped.
    pub(super) async fn pause_chain(&self) -> anyhow::Result<Paused> {
        let chain = self.status().await?.chain.context("the network has no chain of its own")?;
        let mut paused = Paused(vec![]);
        paused.add(chain.pid, "the chain", "starknet-devnet")?;
        Ok(paused)
    }
}

/// Processes that sleep. They go on when this is dropped.
pub(super) struct Paused(Vec<Pid>);

impl Paused {
    fn add(&mut self, pid: Option<i32>, whose: &str, name: &str) -> anyhow::Result<()> {
        self.0.push(signal_ours(pid, whose, name, Signal::SIGSTOP)?);
        Ok(())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that is gone needs no waking.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

impl WorkerProcess {
    /// SIGKILL: no farewell.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        signal_ours(self.pid, &format!("worker {}", self.index), OURS, Signal::SIGKILL).map(drop)
    }
}

impl Member {
    /// SIGKILL: no chance to hand over.
    pub(super) fn kill(&self) -> anyhow::Result<()> {
        signal_ours(self.pid, &format!("node {}", self.index), OURS, Signal::SIGKILL).map(drop)
    }

    /// SIGTERM: it hands over and ends.
    pub(super) fn terminate(&self) -> anyhow::Result<()> {
        signal_ours(self.pid, &format!("node {}", self.index), OURS, Signal::SIGTERM).map(drop)
    }

    /// Whether its process has not ended.
    pub(super) fn runs(&self) -> bool {
        let Some(pid) = self.pid else { return false };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie waits for its parent only.
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }
}

/// Names of processes that are ours begin so.
const OURS: &str = "ciro-";

/// `name`: how the process's name must begin.
fn signal_ours(pid: Option<i32>, whose: &str, name: &str, signal: Signal) -> anyhow::Result<Pid> {
    let pid = pid.filter(|pid| *pid > 1).with_context(|| format!("{whose} has no process"))?;
    let found = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if !found.starts_with(name) {
        bail!("process {pid} of {whose} is {:?}, not one of ours: it was left alone", found.trim());
    }
    let pid = Pid::from_raw(pid);
    kill(pid, signal).with_context(|| format!("send {signal} to process {pid}"))?;
    Ok(pid)
}

async fn shell(command: &str) -> anyhow::Result<Vec<u8>> {
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, said.trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devnet(status: &str, restart: &str) -> Devnet {
        Devnet { status: Source::Command(status.to_owned()), restart: restart.to_owned() }
    }

    #[tokio::test]
    async fn the_status_command_is_understood() {
        let status = r#"echo '{"nodes":[{"index":2,"node_id":"x","role":"leader","api":"http://127.0.0.1:1","p2p":"/ip4","pid":7,"data_dir":"/d"},{"index":3,"node_id":"y","role":"unknown","api":"http://127.0.0.1:2","p2p":"/ip4","pid":null,"data_dir":"/d"}],"workers":[],"run_dir":"/r"}'"#;
        let members = devnet(status, "").members().await.unwrap();
        assert_eq!((members[0].index, members[0].role.as_str(), members[0].pid), (2, "leader", Some(7)));
        assert_eq!(members[1].pid, None);
        assert!(members[1].kill().unwrap_err().to_string().contains("no process"));
    }

    #[tokio::test]
    async fn a_command_that_fails_says_why() {
        let error = devnet("echo out of nodes >&2; exit 3", "").members().await.unwrap_err().to_string();
        assert!(error.contains("out of nodes") && error.contains('3'), "{error}");
        assert!(devnet("echo nonsense", "").members().await.is_err());
    }

    #[tokio::test]
    async fn restart_names_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("note");
        let member = Member { index: 3, role: String::new(), api: String::new(), p2p: String::new(), pid: None };
        devnet("", &format!("echo start {{index}} > {}", note.display())).restart(&member).await.unwrap();
        assert_eq!(std::fs::read_to_string(note).unwrap(), "start 3\n");
    }

    #[test]
    fn a_stranger_is_not_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let member = Member { index: 1, role: String::new(), api: String::new(), p2p: String::new(), pid: Some(pid) };
        assert!(member.kill().unwrap_err().to_string().contains("not one of ours"));
        assert_eq!(child.try_wait().unwrap(), None, "still runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
