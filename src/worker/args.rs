//! The worker's command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use toml::Value;

use super::config::{Flag, LogFormat};
use super::{limited, wasm};

/// A worker: bids for jobs, runs them with the commands its operator allows,
/// signs the results and delivers them to any coordinator.
#[derive(Clone, Debug, Parser)]
#[command(name = "ciro-worker", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Args {
    /// Configuration file; without one, the built-in example (see generate-config) is used
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address of a coordinator, like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…; repeat for more.
    /// Replaces those of the file. Name several; the leader announces the others
    #[arg(long, value_name = "MULTIADDR")]
    pub coordinator: Vec<String>,

    /// Where the key, undelivered results and working directories are
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Name of the network; must be the coordinators'
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,

    /// Jobs run at once; 0 is as many as there are cores
    #[arg(long, value_name = "N")]
    pub max_parallel_jobs: Option<u32>,

    /// Where this worker is, like eu-central
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,

    /// Price per job, in the smallest unit of the token, unless the file names one for its type
    #[arg(long, value_name = "AMOUNT")]
    pub price: Option<String>,

    /// How log lines look
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Also run the built-in type "noop", which does nothing, for benchmarks
    #[arg(long)]
    pub noop: bool,

    #[command(flatten)]
    pub simulate: Simulate,

    /// Unregister when stopping, instead of only being away
    #[arg(long)]
    pub leave: bool,

    /// Print the configuration that would be used, with values of `env` hidden, and exit
    #[arg(long)]
    pub print_config: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Many workers in one process, to see what a cluster of that size does.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Simulation")]
pub struct Simulate {
    /// Be N workers in this process, for benchmarks: each with its own key, connections, bids and heartbeats.
    ///
    /// They run the built-in "noop" only, keep undelivered results in memory, and need coordinators named by IP
    /// address. A worker that shall be killed by itself is a process of its own.
    #[arg(id = "simulate", long = "simulate", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub workers: Option<u32>,

    /// Derive the keys from this number, instead of from DATA_DIR/worker.key
    #[arg(id = "simulate_seed", long = "simulate-seed", value_name = "NUMBER", requires = "simulate")]
    pub seed: Option<u64>,

    /// Prices up to this much above the configured one, each worker its own
    #[arg(
        id = "simulate_price_spread",
        long = "simulate-price-spread",
        value_name = "AMOUNT",
        requires = "simulate",
        default_value_t = 0
    )]
    pub price_spread: u64,

    /// What the workers do to the cluster instead of working. Exists for `ciro-coordinator bench hostile`, which
    /// measures that honest jobs do not suffer; no other network is harmed by it than one could harm by hand.
    #[arg(
        id = "simulate_dishonest",
        long = "simulate-dishonest",
        value_name = "KIND",
        value_enum,
        requires = "simulate",
        hide = true
    )]
    pub dishonest: Option<Dishonest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dishonest {
    /// Bids for everything at no price, accepts, and never runs it
    Vanish,
    /// Wins, and hands in what is not the result: signed by another key, or not what was signed
    WrongResult,
    /// Sends bids that others signed, or nobody, and old ones again
    Forge,
    /// A thousand messages a second, half of them garbage
    Flood,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Write a complete, commented configuration file
    #[command(visible_alias = "init")]
    GenerateConfig {
        /// File to write; one that exists is not replaced
        path: PathBuf,
    },
    /// Runs one module; the agent starts it
    #[command(name = wasm::SUBCOMMAND, hide = true)]
    RunWasm(wasm::Args),
    /// Runs one command within limits; the agent starts it
    #[command(name = limited::SUBCOMMAND, hide = true)]
    RunLimited(limited::Args),
}

const AFTER_HELP: &str = "\
Every key of the file can be set by a variable, CIRO_WORKER__SECTION__KEY, like
CIRO_WORKER__LOCATION__REGION=eu-central. Flags win over variables, variables over the file.

The worker's key is its identity: DATA_DIR/worker.key, made at the first start. Keep it.
DATA_DIR/worker.json appears when a coordinator has registered the worker.

SIGTERM and SIGINT: no new jobs, running ones get worker.shutdown_grace_secs to finish,
the others are handed back. A second signal exits at once. RUST_LOG sets the log level.

Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration, 130 second signal.

Examples:
  ciro-worker --coordinator /ip4/127.0.0.1/tcp/4001/p2p/12D3KooW… --data-dir ./w1
  ciro-worker generate-config worker.toml && ciro-worker --config worker.toml";

impl Args {
    /// The flags that stand for configuration keys.
    pub fn flags(&self) -> Vec<Flag> {
        let text = |value: &Option<String>| value.clone().map(Value::String);
        let coordinators = (!self.coordinator.is_empty())
            .then(|| Value::Array(self.coordinator.iter().cloned().map(Value::String).collect()));
        let data_dir = self.data_dir.as_ref().map(|path| Value::String(path.to_string_lossy().into_owned()));
        let format = self.log_format.and_then(|format| Value::try_from(format).ok());
        let all = [
            ("--coordinator", "network.coordinators", coordinators),
            ("--data-dir", "worker.data_dir", data_dir),
            ("--network", "network.name", text(&self.network)),
            (
                "--max-parallel-jobs",
                "worker.max_parallel_jobs",
                self.max_parallel_jobs.map(|n| Value::Integer(n.into())),
            ),
            ("--region", "location.region", text(&self.region)),
            ("--price", "price.default", text(&self.price)),
            ("--log-format", "log.format", format),
            (
                "--noop",
                "jobs.noop.builtin",
                (self.noop || self.simulate.workers.is_some()).then(|| Value::String("noop".to_owned())),
            ),
        ];
        all.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key, value: value? })).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_become_keys() {
        let args =
            Args::parse_from(["ciro-worker", "--coordinator", "a", "--coordinator", "b", "--noop", "--price", "5"]);
        let keys: Vec<&str> = args.flags().iter().map(|flag| flag.key).collect();
        assert_eq!(keys, ["network.coordinators", "price.default", "jobs.noop.builtin"]);
    }
}
