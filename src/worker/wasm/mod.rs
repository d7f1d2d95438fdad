//! Runs a WebAssembly module (WASI preview 1) that a client brought.
//!
//! The module runs in a process of its own: `ciro-worker` started again with a
//! hidden subcommand ([`child`]), which the agent treats like any other command:
//! an empty environment, a process group, killed at the timeout, on cancel and
//! with the lease. A fault of the engine, or memory that is not there, ends that
//! process and not the agent.
//!
//! What a module can do is read standard input, write standard output and
//! standard error, ask for time and random bytes, and end. There is no code here
//! that opens a file or a socket, so there is no check of a path to get wrong;
//! and before the module runs the process gives up the right to open any.
//!
//! Why `wasmi` and not `wasmtime`: it interprets, so no machine code made from a
//! stranger's module ever runs, and its checks of itself are on (`extra-checks`).
//! A cold build of it took 85 s of CPU time (48 s on two busy cores); wasmtime 48
//! with its WASI was not through after 390 s, and brings a compiler whose faults
//! are escapes. WASI is our own few functions: `wasmi_wasi` would bring the file
//! system back, and wasmtime's crates with it. Loops are dispatched by the
//! portable way, which needs no tail calls of the Rust compiler. The price is
//! speed, 250 million instructions a second of one core, which fuel and time
//! bound. Operators with heavy modules offer a command instead.
//!
//! Invariants
//!
//! * Memory is at most [`Limits::memory_bytes`], instructions at most
//!   [`Limits::fuel`], for each run.
//! * How a run ended is told by [`End`], as an exit code of the process that no
//!   module can give itself.
//!
//! Deliberately absent: preopened directories, arguments, environment, sockets,
//! threads, the component model, several memories.

mod engine;
#[cfg(test)]
mod tests;
mod wasi;

pub use engine::{End, Limits, run};
pub use wasi::Pipes;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};

/// Name of the hidden subcommand.
pub const SUBCOMMAND: &str = "run-wasm";

/// Largest exit code of a module; a larger one becomes this.
pub const EXIT_MAX: i32 = 125;

/// Address space beyond the module's memory, which may be there twice while it grows.
const HEADROOM: u64 = 512 << 20;

/// What the agent tells the process.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub memory_bytes: u64,
    #[arg(long)]
    pub fuel: u64,
    /// CPU seconds after which the kernel ends it, should the agent be gone.
    #[arg(long)]
    pub cpu_secs: u64,
    pub module: PathBuf,
}

impl Args {
    pub fn to_vec(&self) -> Vec<String> {
        let flag = |name: &str, value: u64| [format!("--{name}"), value.to_string()];
        let mut all = vec![SUBCOMMAND.to_owned()];
        all.extend(flag("memory-bytes", self.memory_bytes));
        all.extend(flag("fuel", self.fuel));
        all.extend(flag("cpu-secs", self.cpu_secs));
        all.push(self.module.to_string_lossy().into_owned());
        all
    }
}

/// The life of the process that runs one module: standard input to standard output.
pub fn child(args: &Args) -> ExitCode {
    let end = std::fs::read(&args.module)
        .map_err(|error| format!("read {}: {error}", args.module.display()))
        .and_then(|module| {
            give_up_rights(args).map_err(|error| format!("set limits: {error}"))?;
            Ok(module)
        })
        .map(|module| run(&module, Limits { memory_bytes: args.memory_bytes, fuel: args.fuel }, Pipes::of_process()));
    let end = end.unwrap_or_else(End::Broken);
    if let Some(detail) = end.detail() {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(std::io::stderr(), "{detail}");
    }
    ExitCode::from(end.code())
}

/// From here on no file is opened, no file grows, no core is dumped.
fn give_up_rights(args: &Args) -> nix::Result<()> {
    let memory = args.memory_bytes.saturating_mul(2).saturating_add(HEADROOM);
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    setrlimit(Resource::RLIMIT_CPU, args.cpu_secs, args.cpu_secs)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0)
}

/// The program to run modules with: this one, also when its file was replaced meanwhile.
pub fn runner() -> &'static Path {
    Path::new("/proc/self/exe")
}
