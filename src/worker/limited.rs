//! Runs a command within limits the kernel holds: memory, CPU time, file sizes.
//!
//! A limit is set by the process it is for, before it becomes the command. So a
//! command with limits is started by way of this program's hidden subcommand,
//! which sets them and is replaced by the command: same process, same group.
//!
//! The limits are for each process of the attempt, not for all of them together.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sys::resource::{Resource, setrlimit};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "run-limited";

/// Exit code when the command could not be run, as shells have it.
const NOT_RUN: u8 = 126;

/// What one process of a command may use.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Address space.
    #[arg(long)]
    pub memory_bytes: Option<u64>,
    #[arg(long)]
    pub cpu_secs: Option<u64>,
    /// Largest file it may write.
    #[arg(long)]
    pub file_bytes: Option<u64>,
    #[arg(last = true, required = true)]
    pub command: Vec<PathBuf>,
}

impl Args {
    pub fn is_limited(&self) -> bool {
        self.memory_bytes.or(self.cpu_secs).or(self.file_bytes).is_some()
    }

    /// The arguments that have this program run `program` within these limits.
    pub fn wrap(&self, program: &std::path::Path, arguments: &[String]) -> Vec<String> {
        let mut all = vec![SUBCOMMAND.to_owned()];
        let limits =
            [("--memory-bytes", self.memory_bytes), ("--cpu-secs", self.cpu_secs), ("--file-bytes", self.file_bytes)];
        for (flag, limit) in limits {
            all.extend(limit.into_iter().flat_map(|limit| [flag.to_owned(), limit.to_string()]));
        }
        all.extend(["--".to_owned(), program.to_string_lossy().into_owned()]);
        all.extend_from_slice(arguments);
        all
    }
}

/// Becomes the command. Returns only if that can not be.
pub fn become_command(args: &Args) -> (ExitCode, String) {
    let limits = [
        (Resource::RLIMIT_AS, args.memory_bytes),
        (Resource::RLIMIT_CPU, args.cpu_secs),
        (Resource::RLIMIT_FSIZE, args.file_bytes),
    ];
    for (resource, limit) in limits {
        if let Some(limit) = limit
            && let Err(error) = setrlimit(resource, limit, limit)
        {
            return (ExitCode::from(NOT_RUN), format!("set {resource:?}: {error}"));
        }
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return (ExitCode::from(NOT_RUN), "no command".to_owned());
    };
    let error = Command::new(program).args(arguments).exec();
    (ExitCode::from(NOT_RUN), format!("run {}: {error}", program.display()))
}
