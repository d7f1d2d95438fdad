//! The chain of the stories: a real `starknet-devnet`, which can be killed, frozen, and started again with its state.
//!
//! One serves all stories of a test process, each with accounts and a contract of
//! its own; a story that breaks the node starts another. It ends with the test
//! process, however that ends: a shell keeps it, and kills it when its own
//! standard input closes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use starknet::core::types::Felt;
use starknet::core::utils::get_storage_var_address;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{ports, secs, until};

/// Must be the version that `scripts/starknet.sh` installs.
const VERSION: &str = "0.10.1";

/// Accounts that are there, funded, from the first block on. Every story takes some.
const ACCOUNTS: usize = 64;

/// The fee token, STRK, of every such node.
pub const FEE_TOKEN: &str = "0x04718f5a0fc34cc1af16a1cdee98ffb20c31f5cd61d6ab07201858f4287c938d";

static SHARED: OnceCell<Devnet> = OnceCell::const_new();

/// How a node is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its state goes with the process.
    Fleeting,
    /// Every block is written down, and is there again at the next start.
    Kept,
    /// Blocks can be aborted.
    Archived,
}

/// An account that the node has made.
#[derive(Clone, Debug)]
pub struct Account {
    pub address: Felt,
    pub key: Felt,
}

pub struct Devnet {
    pub url: String,
    port: u16,
    kind: Kind,
    swept: bool,
    dir: TempDir,
    http: reqwest::Client,
    kept: Mutex<Option<Kept>>,
    accounts: Mutex<Vec<Account>>,
}

/// The shell, and the node it keeps.
struct Kept {
    shell: Child,
    node: Pid,
}

impl Devnet {
    /// The one that stories share. Nobody drops it: the shell that keeps the node removes its folder.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(async || Self::start_as(Kind::Fleeting, true).await).await
    }

    pub async fn start(kind: Kind) -> Self {
        Self::start_as(kind, false).await
    }

    /// `swept`: the folder goes with the process.
    async fn start_as(kind: Kind, swept: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("ciro-starknet-").tempdir().unwrap();
        let port = ports::free();
        let http = reqwest::Client::builder().timeout(secs(30)).no_proxy().build().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let devnet = Self { url, port, kind, swept, dir, http, kept: Mutex::default(), accounts: Mutex::default() };
        devnet.launch().await;
        let listed = devnet.rpc("devnet_getPredeployedAccounts", json!({})).await;
        let account = |it: &Value| Account { address: felt(&it["address"]), key: felt(&it["private_key"]) };
        // Last first, so that stories take them in order.
        *devnet.accounts.lock().unwrap() = listed.as_array().expect("accounts").iter().rev().map(account).collect();
        devnet
    }

    /// An account that no other story has.
    pub fn account(&self) -> Account {
        self.accounts.lock().unwrap().pop().expect("there are accounts for every story: raise ACCOUNTS")
    }

    async fn launch(&self) {
        let mut arguments = vec!["--seed", "0", "--block-generation-on", "transaction"];
        let (accounts, port) = (ACCOUNTS.to_string(), self.port.to_string());
        arguments.extend(["--accounts", &accounts, "--port", &port]);
        let dump = self.dir.path().join("state.json");
        match self.kind {
            Kind::Fleeting => {}
            Kind::Kept => arguments.extend(["--dump-on", "block", "--dump-path", dump.to_str().unwrap()]),
            Kind::Archived => arguments.extend(["--state-archive-capacity", "full"]),
        }
        *self.kept.lock().unwrap() = Some(Kept::start(&binary(), &arguments, self.dir.path(), self.swept));
        until(secs(60), "starknet-devnet is up", async || {
            if self.kept.lock().unwrap().as_ref().is_some_and(|kept| !kept.runs()) {
                panic!("starknet-devnet ended while it started\n{}", self.log_tail());
            }
            let answer = self.http.get(format!("{}/is_alive", self.url)).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    // ------------------------------------------------------------- breaking

    /// SIGKILL. What it wrote down stays.
    pub fn kill(&self) {
        drop(self.kept.lock().unwrap().take().expect("the node runs"));
    }

    /// After [`Self::kill`], at the same address.
    pub async fn start_again(&self) {
        assert!(self.kept.lock().unwrap().is_none(), "the node runs already");
        self.launch().await;
    }

    /// It takes connections, and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.kept.lock().unwrap().as_ref().expect("the node runs").node, signal).unwrap();
    }

    // ----------------------------------------------------------------- talk

    /// What it answers, without anything between. It must succeed.
    pub async fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub async fn try_rpc(&self, method: &str, params: Value) -> Result<Value, String> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.http.post(&self.url).json(&body).send().await.map_err(|error| format!("{error:?}"))?;
        let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].take()),
        }
    }

    pub async fn head(&self) -> u64 {
        self.rpc("starknet_blockNumber", json!([])).await.as_u64().expect("a block number")
    }

    pub async fn nonce(&self, account: Felt) -> u64 {
        let params = json!({"block_id": "latest", "contract_address": hex(account)});
        number(&self.rpc("starknet_getNonce", params).await)
    }

    /// Throws away the blocks from `number` on, as a reorganisation does.
    pub async fn abort_from(&self, number: u64) {
        self.rpc("devnet_abortBlocks", json!({"starting_block_id": {"block_number": number}})).await;
    }

    /// From now on the account has `amount` of the fee token.
    pub async fn set_balance(&self, account: Felt, amount: u128) {
        let low = get_storage_var_address("ERC20_balances", &[account]).unwrap();
        let entry = |key: Felt, value: u128| json!({"key": hex(key), "value": format!("{value:#x}")});
        let entries = [entry(low, amount), entry(low + Felt::ONE, 0)];
        let diff = json!({"storage_diffs": [{"address": FEE_TOKEN, "storage_entries": entries}]});
        self.rpc("devnet_applyStateDiff", json!({"state_diff": diff})).await;
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Kept {
    fn start(binary: &Path, arguments: &[&str], dir: &Path, swept: bool) -> Self {
        // The shell's own child: its pid is nobody else's before the shell has waited for it.
        let script = r#"dir=$1; swept=$2; shift 2; "$@" >>"$dir/log" 2>&1 & pid=$!; echo $pid; read _
            kill -KILL $pid; wait $pid; if "$swept"; then rm -rf "$dir"; fi"#;
        let mut shell = Command::new("sh")
            .args(["-c", script, "keeper"])
            .arg(dir)
            .arg(swept.to_string())
            .arg(binary)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { shell, node: Pid::from_raw(line.trim().parse().expect("a pid")) }
    }

    fn runs(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.node)).unwrap_or_default();
        status.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// `CIRO_STARKNET_DEVNET`, or where `scripts/starknet.sh` puts it.
fn binary() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    let cached = cache.join(format!("ciro/starknet-devnet-{VERSION}/bin/starknet-devnet"));
    let path = std::env::var_os("CIRO_STARKNET_DEVNET").map_or(cached, PathBuf::from);
    assert!(
        path.is_file(),
        "there is no starknet-devnet at {}: scripts/starknet.sh fetch builds it (half an hour, once), \
         or CIRO_STARKNET_DEVNET names another",
        path.display()
    );
    path
}

// --------------------------------------------------------------------- felts

pub fn felt(value: &Value) -> Felt {
    let text = value.as_str().unwrap_or_else(|| panic!("not a felt: {value}"));
    Felt::from_hex(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn hex(felt: Felt) -> String {
    format!("{felt:#x}")
}

/// A felt that is a small number.
pub fn number(value: &Value) -> u64 {
    u64::try_from(u128_of(felt(value))).expect("a small number")
}

pub fn u128_of(felt: Felt) -> u128 {
    u128::try_from(felt).expect("below 2^128")
}
