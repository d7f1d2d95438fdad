//! What each bench is told on the command line.

use std::path::PathBuf;

use clap::ValueEnum;

/// The jobs are of type "bench", which no worker runs: they stay pending.
#[derive(Clone, Debug, clap::Args)]
pub struct SubmitArgs {
    /// Clients that submit at the same time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,

    /// How long to measure, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub duration_secs: u64,

    /// How long to run before measuring, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub warmup_ms: u64,

    /// Submit through /jobs/batch, this many jobs per request
    #[arg(long, value_name = "JOBS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: Option<u32>,

    /// Submit through followers only
    #[arg(long)]
    pub follower: bool,

    /// Bytes of payload per job
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub payload_bytes: u32,
}

#[derive(Clone, Debug, clap::Args)]
pub struct EndToEndArgs {
    /// Clients that submit at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: u32,

    /// Jobs in all
    #[arg(long, value_name = "JOBS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub jobs: u32,

    /// Jobs per request
    #[arg(long, value_name = "JOBS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// Job type; some worker must run it
    #[arg(long = "type", value_name = "TYPE", default_value = "noop")]
    pub kind: String,

    /// Give up when the jobs have not ended by then, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=36_000))]
    pub timeout_secs: u64,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ReadsArgs {
    /// Clients that read at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,

    /// How long to measure, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub duration_secs: u64,

    /// How long to run before measuring, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub warmup_ms: u64,

    /// How fresh the answer must be
    #[arg(long, value_enum, default_value_t = Consistency::Stale)]
    pub consistency: Consistency,

    /// Read at the leader, then at a follower, half of the time each, and compare the two
    #[arg(long)]
    pub compare: bool,
}

/// Needs no process control: only the REST addresses.
#[derive(Clone, Debug, clap::Args)]
pub struct HandoverArgs {
    /// Hand-overs, one after the other
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,

    /// Clients that write meanwhile
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub clients: u32,
}

/// Stops nodes of a development network and has them started again.
#[derive(Clone, Debug, clap::Args)]
pub struct RollingArgs {
    /// How often every node is restarted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub turns: u32,

    /// Clients that write meanwhile
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub clients: u32,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

/// Starts two nodes that join a development network, and removes them again.
#[derive(Clone, Debug, clap::Args)]
pub struct MembersArgs {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub turns: u32,

    /// Clients that write meanwhile
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub clients: u32,

    /// The network's name
    #[arg(long, value_name = "NAME", default_value = "ciro-devnet")]
    pub network: String,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// The node's own state
    Stale,
    /// Everything committed before the read began
    Linearizable,
    /// The same on the leader's lease
    Lease,
}

impl Consistency {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub struct MarketArgs {
    /// Workers that must be online before anything is measured
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub workers: u64,

    /// Jobs submitted each second
    #[arg(long, value_name = "JOBS", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs_per_sec: u32,

    /// How long to measure, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub duration_secs: u64,

    /// How long to run before measuring, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub warmup_ms: u64,

    /// How long to wait for the workers, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    pub join_secs: u64,

    /// Job type; the workers must run it
    #[arg(long = "type", value_name = "TYPE", default_value = "noop")]
    pub kind: String,
}

/// Fills the nodes of a development network, then kills one after the other and has it started again.
#[derive(Clone, Debug, clap::Args)]
pub struct MillionArgs {
    /// Clients that submit at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub clients: u32,

    /// Jobs in all; the nodes' jobs.retention_* must allow as many
    #[arg(long, value_name = "JOBS", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub jobs: u32,

    /// Jobs per request
    #[arg(long, value_name = "JOBS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,

    /// Job type; some worker must run it
    #[arg(long = "type", value_name = "TYPE", default_value = "noop")]
    pub kind: String,

    /// Give up when the jobs have not ended by then, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 1_800, value_parser = clap::value_parser!(u64).range(1..=36_000))]
    pub timeout_secs: u64,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

/// Kills workers of a development network, and its leader; only the leader is started again.
#[derive(Clone, Debug, clap::Args)]
pub struct NoticeArgs {
    /// Workers that must be online before anything is measured
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub workers: u64,

    /// Workers to kill; each must be a process of its own
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kills: u32,

    /// How many of them in the same moment as the leader
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub with_leader: u32,

    /// Workers that are killed at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub together: u32,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub struct HostileArgs {
    /// Honest workers that must be online before anything is measured
    #[arg(long, value_name = "N", default_value_t = 80)]
    pub honest: u64,

    /// Command that is dishonest workers, run for the second half and then ended; repeat for more
    #[arg(long, value_name = "COMMAND", required = true)]
    pub start: Vec<String>,

    /// Jobs submitted each second
    #[arg(long, value_name = "JOBS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs_per_sec: u32,

    /// How long each half is, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub duration_secs: u64,

    /// How long the dishonest workers have to join, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub settle_secs: u64,

    /// How long to wait for the honest workers, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    pub join_secs: u64,

    /// Job type; the workers must run it
    #[arg(long = "type", value_name = "TYPE", default_value = "noop")]
    pub kind: String,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ClearingArgs {
    /// Random rounds of each size
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,

    /// Where the random rounds come from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

#[derive(Clone, Debug, clap::Args)]
pub struct RestoreArgs {
    /// Completed jobs in the backup
    #[arg(long, value_name = "JOBS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub jobs: u32,
}

/// Pauses the Starknet node of a development network for parts of it.
#[derive(Clone, Debug, clap::Args)]
pub struct ChainArgs {
    /// Jobs of one load; blockchain.default_max_price of the nodes must be set, and workers be paid somewhere
    #[arg(long, value_name = "JOBS", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub jobs: u32,

    /// How often each load is run
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,

    /// Single jobs of each kind, one after the other
    #[arg(long, value_name = "JOBS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub latency_jobs: u32,

    /// Job type; some worker must run it
    #[arg(long = "type", value_name = "TYPE", default_value = "noop")]
    pub kind: String,

    /// Give a part up after this long, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_secs: u64,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

impl ChainArgs {
    pub(super) fn limit(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout_secs)
    }
}

/// Pauses the nodes of a development network while it produces, and its broker while it cancels.
#[cfg(feature = "kafka")]
#[derive(Clone, Debug, clap::Args)]
pub struct KafkaArgs {
    /// Jobs through Kafka; kafka.max_in_flight_jobs of the nodes must be more
    #[arg(long, value_name = "JOBS", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=90_000))]
    pub jobs: u32,

    /// Bytes of payload per job
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=262_144))]
    pub payload_bytes: u32,

    /// Give up either half after this long, in seconds
    #[arg(long, value_name = "SECS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_secs: u64,

    #[command(flatten)]
    pub devnet: DevnetArgs,
}

#[cfg(feature = "kafka")]
impl KafkaArgs {
    pub(super) fn limit(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout_secs)
    }
}

/// Kills nodes of a development network and has them started again.
#[derive(Clone, Debug, clap::Args)]
pub struct FailoverArgs {
    /// Leaders to kill, one after the other
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,

    /// Clients that write meanwhile; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_024))]
    pub load: u32,

    #[command(flatten)]
    pub devnet: DevnetArgs,

    /// Type of the jobs that run meanwhile and must not be restarted; its payload is a number of seconds
    #[arg(long, value_name = "TYPE", default_value = "sleep")]
    pub hold_type: String,

    /// How many of them; 0 for none
    #[arg(long, value_name = "JOBS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub hold_jobs: u32,

    /// How long each runs, in seconds; longer than all rounds together
    #[arg(long, value_name = "SECS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..=86_000))]
    pub hold_secs: u32,
}

/// How to find the processes of a development network.
#[derive(Clone, Debug, clap::Args)]
pub struct DevnetArgs {
    /// Command that prints the network as JSON
    #[arg(long, value_name = "COMMAND", default_value = "scripts/devnet.sh status --json")]
    pub status_command: String,

    /// File with the same JSON, read anew each time, instead of the command
    #[arg(long, value_name = "FILE")]
    pub devnet_status: Option<PathBuf>,

    /// Command that starts the node that was killed; {index} is its number
    #[arg(long, value_name = "COMMAND", default_value = "scripts/devnet.sh start {index}")]
    pub restart_command: String,
}
