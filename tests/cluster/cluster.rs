//! N nodes and M workers as processes, and everything that can be done to them.
//!
//! Nodes are numbered from 0, workers too. A story ends with [`Cluster::finish`];
//! one that fails before shows the end of every log instead.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ciro::tasks::Tasks;
use nix::sys::signal::Signal;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::sync::SemaphorePermit;

use crate::client::Client;
use crate::links::{Links, Party};
use crate::machine::{self, Machine};
use crate::observer::Observer;
use crate::process::Process;
use crate::programs::{clean, coordinator, liar_configuration, run, worker_configuration};
use crate::{oracle, programs, secs, stage, until};

pub const NETWORK: &str = "ciro-stories";

/// The variable that names the network.
const NAME: &str = "CIRO__NETWORK__NAME";

mod breaking;
mod node;

pub struct Node {
    pub id: String,
    pub dir: PathBuf,
    pub p2p: u16,
    /// The port of the relay in front of it, if its links can be cut.
    relay: Option<u16>,
    /// What it runs on.
    pub machine: Machine,
    /// The invitation that it joins with; else it is a founder.
    pub invitation: Option<String>,
    /// It is not to run: not invited yet, or removed.
    pub absent: bool,
    api: u16,
    pub process: Option<Process>,
}

pub struct Worker {
    pub dir: PathBuf,
    config: PathBuf,
    pub process: Option<Process>,
}

pub struct Cluster {
    pub client: Client,
    pub nodes: Vec<Node>,
    pub workers: Vec<Worker>,
    pub observer: Observer,
    pub rng: StdRng,
    /// What [`Self::rng`] came from.
    pub seed: u64,
    pub tasks: Tasks,
    links: Option<Links>,
    /// Variables in every node's environment.
    settings: Vec<(String, String)>,
    network: String,
    /// Where the members are: multiaddrs, comma separated.
    pub members: String,
    workers_died: bool,
    /// What tells the nodes of their machines.
    library: PathBuf,
    dir: TempDir,
    _stage: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts `nodes` nodes and `workers` workers and waits until all are of use.
    pub async fn start(nodes: usize, workers: usize) -> Self {
        Self::build(nodes, workers, None, vec![]).await
    }

    /// Like [`Self::start`], with `settings` (variables and values) in every node's environment.
    pub async fn start_with(nodes: usize, workers: usize, settings: &[(&'static str, &'static str)]) -> Self {
        let owned = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::build(nodes, workers, None, owned.collect()).await
    }

    /// Like [`Self::start_with`]. Two clusters that share a broker must not share a network's name.
    pub async fn start_as(nodes: usize, workers: usize, network: &str, mut settings: Vec<(String, String)>) -> Self {
        settings.push((NAME.to_owned(), network.to_owned()));
        Self::build(nodes, workers, None, settings).await
    }

    /// Like [`Self::start`], with links that can be cut.
    pub async fn start_with_links(nodes: usize, workers: usize) -> Self {
        Self::build(nodes, workers, Some(Links::new()), vec![]).await
    }

    /// Like [`Self::start_with_links`], with `spare` more nodes that are no members and do not run, and with `settings`
    /// in every node's environment.
    pub async fn start_with_links_and_room(
        nodes: usize,
        spare: usize,
        workers: usize,
        settings: Vec<(String, String)>,
    ) -> Self {
        let mut cluster = Self::prepare(nodes + spare, nodes, Some(Links::new()), settings).await;
        cluster.begin(workers).await;
        cluster
    }

    /// Like [`Self::start`], with `spare` more nodes that are no members and do not run.
    pub async fn start_with_room(nodes: usize, spare: usize, workers: usize) -> Self {
        let mut cluster = Self::prepare(nodes + spare, nodes, None, vec![]).await;
        cluster.begin(workers).await;
        cluster
    }

    async fn build(nodes: usize, workers: usize, links: Option<Links>, settings: Vec<(String, String)>) -> Self {
        let mut cluster = Self::prepare(nodes, nodes, links, settings).await;
        cluster.begin(workers).await;
        cluster
    }

    async fn prepare(nodes: usize, founders: usize, links: Option<Links>, settings: Vec<(String, String)>) -> Self {
        let stage = stage::enter().await;
        let seed = std::env::var("CIRO_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
        println!("seed: CIRO_TEST_SEED={seed}");
        let dir = tempfile::Builder::new().prefix("ciro-cluster-").tempdir().unwrap();
        run(clean(coordinator()).args(["generate-config", "test"]).arg(dir.path().join("node.toml")));
        fs::write(dir.path().join("worker.toml"), worker_configuration(&dir.path().join("executions"))).unwrap();
        let tasks = Tasks::new();
        let mut nodes: Vec<Node> = (0..nodes).map(|index| Node::prepare(dir.path(), index)).collect();
        if let Some(links) = &links {
            for (index, node) in nodes.iter_mut().enumerate() {
                node.relay = Some(links.relay(index, node.p2p, &tasks).await);
            }
        }
        nodes.iter_mut().skip(founders).for_each(|node| node.absent = true);
        let members: Vec<String> = nodes.iter().take(founders).map(Node::address).collect();
        let client = Client::new(&nodes.iter().map(|node| node.api).collect::<Vec<_>>());
        Self {
            observer: Observer::start(&client, &tasks),
            client,
            nodes,
            workers: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            seed,
            tasks,
            links,
            network: settings.iter().find(|(name, _)| name == NAME).map_or(NETWORK.to_owned(), |(_, it)| it.clone()),
            settings,
            members: members.join(","),
            workers_died: false,
            library: machine::build(dir.path()),
            dir,
            _stage: stage,
        }
    }

    async fn begin(&mut self, workers: usize) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].absent {
                self.launch(node);
            }
        }
        self.all_ready().await;
        for _ in 0..workers {
            self.add_worker();
        }
        self.workers_online(workers).await;
    }

    /// All that node `node` logged in its lives.
    pub fn log(&self, node: usize) -> String {
        fs::read_to_string(self.nodes[node].dir.join("log")).unwrap()
    }

    // ------------------------------------------------------------- starting

    /// Starts node `node` without waiting for it.
    pub fn launch(&mut self, node: usize) {
        let config = self.dir.path().join("node.toml");
        let it = &mut self.nodes[node];
        assert!(it.process.is_none(), "node {node} runs already");
        self.observer.reborn(node);
        let mut command = clean(coordinator());
        if let Some(port) = it.relay {
            command.env("CIRO__NETWORK__EXTERNAL_ADDRESSES", format!("/ip4/127.0.0.1/tcp/{port}"));
        }
        command
            .args(["start", "--config"])
            .arg(config)
            .env("CIRO__API__BIND", format!("127.0.0.1:{}", it.api))
            .env(NAME, &self.network)
            .env("CIRO__NETWORK__P2P_PORT", it.p2p.to_string())
            .env("CIRO__NODE__DATA_DIR", it.dir.join("data"))
            .env("LD_PRELOAD", &self.library);
        match &it.invitation {
            Some(token) => command.env("CIRO__CLUSTER__JOIN", &self.members).env("CIRO_INVITATION", token),
            None => command.env("CIRO__CLUSTER__INITIAL_MEMBERS", &self.members),
        };
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        it.absent = false;
        let process = Process::spawn(&format!("node {node}"), &mut command, &it.dir.join("log"));
        self.links.iter().for_each(|links| links.belongs(process.pid(), Party::Node(node)));
        it.process = Some(process);
    }

    /// Starts node `node` and waits until it is ready.
    pub async fn restart(&mut self, node: usize) {
        self.launch(node);
        self.ready(node).await;
    }

    /// Starts one more worker, and returns its number.
    pub fn add_worker(&mut self) -> usize {
        let config = self.dir.path().join("worker.toml");
        self.add_worker_like(config)
    }

    /// Starts one more worker, which answers every job at once and with a lie, and returns its number.
    pub fn add_liar(&mut self) -> usize {
        let config = self.dir.path().join("liar.toml");
        fs::write(&config, liar_configuration(&self.executions_file())).unwrap();
        self.add_worker_like(config)
    }

    /// Starts one more worker, which ends jobs of type `noop`, 256 at a time, without a process for each.
    pub fn add_idler(&mut self) -> usize {
        let config = self.dir.path().join("idler.toml");
        fs::write(&config, "[worker]\nmax_parallel_jobs = 256\n\n[jobs.noop]\nbuiltin = \"noop\"\n").unwrap();
        self.add_worker_like(config)
    }

    /// Like [`Self::add_idler`], for a price, and paid at `payout`. It takes inputs from files of the story.
    pub fn add_paid_idler(&mut self, price: u128, payout: &str) -> usize {
        let config = self.dir.path().join(format!("idler-{}.toml", self.workers.len()));
        let text = format!(
            "[worker]\nmax_parallel_jobs = 256\npayout_address = \"{payout}\"\n\n[price]\ndefault = \"{price}\"\n\n\
             [inputs]\nschemes = [\"file\"]\nfile_roots = [\"{}\"]\n\n[jobs.noop]\nbuiltin = \"noop\"\n",
            self.dir.path().display()
        );
        fs::write(&config, text).unwrap();
        self.add_worker_like(config)
    }

    /// Starts one more worker, configured by `text`, and returns its number.
    pub fn add_worker_with(&mut self, text: &str) -> usize {
        let config = self.dir.path().join(format!("worker-{}.toml", self.workers.len()));
        fs::write(&config, text).unwrap();
        self.add_worker_like(config)
    }

    /// From a node's next start on, the variable has another value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    fn add_worker_like(&mut self, config: PathBuf) -> usize {
        let dir = self.dir.path().join(format!("worker-{}", self.workers.len()));
        fs::create_dir_all(dir.join("data")).unwrap();
        self.workers.push(Worker { dir, config, process: None });
        self.launch_worker(self.workers.len() - 1);
        self.workers.len() - 1
    }

    pub fn launch_worker(&mut self, worker: usize) {
        let mut command = clean(programs::worker());
        command.args(["--network", &self.network, "--config"]).arg(&self.workers[worker].config);
        for address in self.members.split(',') {
            command.args(["--coordinator", address]);
        }
        let it = &mut self.workers[worker];
        assert!(it.process.is_none(), "worker {worker} runs already");
        command.arg("--data-dir").arg(it.dir.join("data"));
        let process = Process::spawn(&format!("worker {worker}"), &mut command, &it.dir.join("log"));
        self.links.iter().for_each(|links| links.belongs(process.pid(), Party::Worker(worker)));
        it.process = Some(process);
    }

    // -------------------------------------------------------------- waiting

    pub async fn ready(&mut self, node: usize) {
        let (client, process) = (self.client.clone(), self.nodes[node].process.as_mut());
        let process = process.expect("the node was started");
        until(secs(30), &format!("node {node} is ready"), async || {
            process.must_run();
            let answer = client.get_within(node, "/health/ready", secs(2)).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    pub async fn all_ready(&mut self) {
        for node in self.running() {
            self.ready(node).await;
        }
        self.leader().await;
    }

    /// Waits until a node that runs takes `count` workers for usable.
    pub async fn workers_online(&mut self, count: usize) {
        let node = self.running()[0];
        until(secs(30), &format!("{count} workers are online"), async || {
            let status = self.client.get(node, "/status").await?.body;
            let online =
                status["workers"]["online"].as_u64().unwrap_or(0) + status["workers"]["busy"].as_u64().unwrap_or(0);
            (online == count as u64).then_some(())
        })
        .await;
    }

    /// The node that leads, once every node that runs says the same.
    pub async fn leader(&mut self) -> usize {
        let running = self.running();
        until(secs(30), "all nodes that run know one leader", async || {
            let mut views = Vec::new();
            for node in &running {
                let status = self.client.get_within(*node, "/status", secs(2)).await?.body;
                views.push((status["term"].as_u64()?, status["leader_id"].as_str()?.to_owned()));
            }
            let leader = self.nodes.iter().position(|node| node.id == views[0].1)?;
            (views.windows(2).all(|pair| pair[0] == pair[1]) && running.contains(&leader)).then_some(leader)
        })
        .await
    }

    /// A node that runs and does not lead.
    pub async fn follower(&mut self) -> usize {
        let leader = self.leader().await;
        self.running().into_iter().find(|node| *node != leader).expect("a second node runs")
    }

    /// The nodes that run and are not paused.
    pub fn running(&self) -> Vec<usize> {
        let awake = |node: &Node| node.process.as_ref().is_some_and(|process| !process.paused());
        (0..self.nodes.len()).filter(|node| awake(&self.nodes[*node])).collect()
    }

    /// Where a node's API is.
    pub fn api(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.nodes[node].api)
    }

    /// What the command line prints when it asks `node`.
    pub fn cli(&self, node: usize, args: &[&str]) -> String {
        run(clean(coordinator()).args(["--node", &format!("http://127.0.0.1:{}", self.nodes[node].api)]).args(args))
    }

    /// What the command line prints, and its exit code, on a machine that knows no node.
    pub fn offline(&self, args: &[&str]) -> (String, Option<i32>) {
        let output = clean(coordinator()).args(["--node", "http://127.0.0.1:1"]).args(args).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    }

    /// What the command line does on the machine of `node`, with its configuration and environment, while it does not
    /// run: exit code, answer, and what else it said.
    pub fn beside(&self, node: usize, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = clean(coordinator());
        command
            .args(args)
            .arg("--config")
            .arg(self.dir.path().join("node.toml"))
            .env(NAME, &self.network)
            .env("CIRO__NODE__DATA_DIR", self.nodes[node].dir.join("data"))
            .env("CIRO__CLUSTER__INITIAL_MEMBERS", &self.members);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// A file of the story.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What the command line says when it asks `node` in vain.
    pub fn cli_fails(&self, node: usize, args: &[&str]) -> String {
        let mut command = clean(coordinator());
        command.args(["--node", &format!("http://127.0.0.1:{}", self.nodes[node].api)]).args(args);
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Where the nodes are reached: multiaddrs.
    pub fn addresses(&self) -> Vec<String> {
        self.members.split(',').map(str::to_owned).collect()
    }

    /// The number of the worker with this id.
    pub fn worker_by_id(&self, id: &str) -> usize {
        let named = |worker: &Worker| {
            fs::read_to_string(worker.dir.join("data/worker.json"))
                .is_ok_and(|text| text.contains(&format!("\"{id}\"")))
        };
        self.workers.iter().position(named).unwrap_or_else(|| panic!("no worker has the id {id}"))
    }

    // --------------------------------------------------------------- ending

    /// Undoes what was broken: everything runs again.
    pub async fn heal(&mut self) {
        self.mend();
        self.nodes.iter().for_each(|node| node.machine.heal());
        for node in 0..self.nodes.len() {
            let absent = self.nodes[node].absent;
            match &mut self.nodes[node].process {
                Some(process) if process.paused() => process.signal(Signal::SIGCONT),
                Some(process) => process.must_run(),
                None if absent => {}
                None => self.launch(node),
            }
        }
        for worker in 0..self.workers.len() {
            match &mut self.workers[worker].process {
                Some(process) if process.paused() => process.signal(Signal::SIGCONT),
                Some(process) => process.must_run(),
                None => self.launch_worker(worker),
            }
        }
        self.all_ready().await;
    }

    /// Heals, asks the oracle, and stops everything in good order.
    pub async fn finish(mut self) {
        self.heal().await;
        let nodes = self.running();
        oracle::judge(&self.client, &nodes, &self.observer, &self.executions_file(), self.workers_died).await;
        let workers = self.workers.iter_mut().map(|worker| worker.process.take());
        let nodes = self.nodes.iter_mut().map(|node| node.process.take());
        let mut all: Vec<Process> = workers.chain(nodes).flatten().collect();
        for process in &mut all {
            process.signal(Signal::SIGTERM);
        }
        for process in all {
            let status = process.wait(secs(15)).await;
            assert!(status.success(), "a stop in good order ended with {status}");
        }
        self.tasks.cancel();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.cancel();
        if !std::thread::panicking() {
            return;
        }
        let logs = self.nodes.iter().map(|node| node.dir.join("log"));
        for log in logs.chain(self.workers.iter().map(|worker| worker.dir.join("log"))) {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if std::env::var_os("CIRO_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept {}", self.dir.path().display());
        }
    }
}

/// The longest a leader may be missing after one died.
pub const ELECTION: Duration = secs(5);
