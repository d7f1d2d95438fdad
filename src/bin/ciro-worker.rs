//! `ciro-worker`: the agent that runs jobs. See `ciro::worker` and `docs/worker.md`.
//!
//! The allocator is jemalloc, as the node's: a thousand workers in one process ask for memory all the time.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use ciro::telemetry;
use ciro::worker::args::{Args, Command};
use ciro::worker::config::{EXAMPLE, File, Layered, LogFormat};
use ciro::worker::simulate::{self, Plan};
use ciro::worker::{self, Settings};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const SECOND_SIGNAL: u8 = 130;

/// Files open at once: some for each of 1024 jobs. Not all that the system allows, because
/// commands inherit it, and some of them close every number there may be.
const FILES: u64 = 16_384;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Some(Command::GenerateConfig { path }) => generate_config(path).map(|()| ExitCode::SUCCESS),
        Some(Command::RunWasm(args)) => return run_wasm(args),
        Some(Command::RunLimited(args)) => {
            let (code, reason) = worker::limited::become_command(args);
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{reason}");
            return code;
        }
        None => start(&args),
    };
    done.unwrap_or_else(|error| complain(&error, FAILED))
}

/// Runs a stranger's module, in a process that is there for nothing else.
fn run_wasm(args: &worker::wasm::Args) -> ExitCode {
    telemetry::abort_on_panic(|| false);
    worker::wasm::child(args)
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "ciro-worker: {error:#}");
    ExitCode::from(code)
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    let layered = match Layered::read(args.config.as_deref(), environment(), args.flags()) {
        Ok(layered) => layered,
        Err(error) => return Ok(complain(&error.into(), WRONG_USAGE)),
    };
    if args.print_config {
        print_config(layered.file.clone())?;
    }
    let settings = match Settings::check(&layered) {
        Ok(settings) => Settings { leave: args.leave, ..settings },
        Err(error) => return Ok(complain(&error.into(), WRONG_USAGE)),
    };
    if args.print_config {
        return Ok(ExitCode::SUCCESS);
    }
    let format = match settings.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init("info", format)?;
    // Half a worker is worse than none.
    telemetry::abort_on_panic(|| false);
    telemetry::raise_file_limit(FILES);
    let runtime = tokio::runtime::Runtime::new().context("start runtime")?;
    let code = runtime.block_on(run(settings, Plan::of(&args.simulate)));
    runtime.shutdown_background();
    code
}

/// Variables that are text; others are none of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs until a signal; a second one ends it at once.
async fn run(settings: Settings, plan: Option<Plan>) -> anyhow::Result<ExitCode> {
    let data_dir = settings.data_dir.clone();
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let stop = CancellationToken::new();
    let signals = async {
        for _ in 0..2 {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if stop.is_cancelled() {
                return;
            }
            stop.cancel();
        }
    };
    let work = async {
        match plan {
            None => worker::run(settings, stop.clone()).await,
            Some(plan) => simulate::run(settings, plan, stop.clone()).await,
        }
    };
    tokio::select! {
        result = work => result.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        () = signals => {
            worker::kill_commands(&data_dir);
            Ok(complain(&anyhow!("second signal: stopped at once"), SECOND_SIGNAL))
        }
    }
}

fn generate_config(path: &Path) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(EXAMPLE.as_bytes())).with_context(|| path.display().to_string())?;
    let next = format!("wrote {0}: set network.coordinators, then run ciro-worker --config {0}\n", path.display());
    std::io::stdout().write_all(next.as_bytes()).context("write to standard output")
}

/// Prints the configuration in force; what `env` and `headers` hold may be secret.
fn print_config(mut file: File) -> anyhow::Result<()> {
    for job in file.jobs.values_mut() {
        let headers = job.http.iter_mut().flat_map(|http| http.headers.values_mut());
        for value in job.env.values_mut().chain(headers) {
            "(hidden)".clone_into(value);
        }
    }
    let text = toml::to_string(&file).context("print configuration")?;
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")
}
