//! `start`: configuration, telemetry, and the node until it ends.

use std::path::PathBuf;

use super::failure::{self, Failure, Kind};
use super::output;
use crate::config::{Config, Environment, LogFormat, Sources};
use crate::{kafka, node, storage, telemetry};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; without one the environment's defaults
    #[arg(long, short, value_name = "PATH", env = "CIRO_CONFIG")]
    config: Option<PathBuf>,
    /// development, staging, production or test: wins over what the file says
    #[arg(long, short, value_name = "NAME")]
    environment: Option<Environment>,
    /// Set a key, e.g. --set network.p2p_port=4002; lists comma separated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// The same as --set node.data_dir=PATH
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
    /// The same as --set api.bind=ADDRESS
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_bind: Option<String>,
    /// The same as --set network.p2p_port=PORT
    #[arg(long, value_name = "PORT")]
    p2p_port: Option<String>,
    /// The same as --set cluster.initial_members=…, comma separated multiaddrs
    #[arg(long, value_name = "MULTIADDRS")]
    initial_members: Option<String>,
    /// Join a cluster that runs: the same as --set cluster.join=…, members' addresses with /p2p/, comma separated
    #[arg(long, value_name = "MULTIADDRS")]
    join: Option<String>,
    /// The token that `cluster invite` printed; a variable or --invitation-file keep it out of the process list
    #[arg(long, value_name = "TOKEN", env = "CIRO_INVITATION", hide_env_values = true)]
    invitation: Option<String>,
    /// The same as --set cluster.invitation_file=PATH: the token in a file
    #[arg(long, value_name = "PATH")]
    invitation_file: Option<String>,
    /// The same as --set logging.level=LEVEL
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Print the effective configuration, each value with where it came from, without secrets; then exit
    #[arg(long)]
    print_config: bool,
}

pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Args {
    /// Whether it was meant to join, also if what a script put there is empty. An empty variable says nothing.
    fn joins(&self) -> bool {
        let token = self.invitation.as_ref().is_some_and(|token| !token.is_empty() || !varied());
        token || self.join.is_some() || self.invitation_file.is_some()
    }

    /// What was said, by whom. Flags of their own win over `--set`.
    fn sources(&self, variables: Vec<(String, String)>) -> Sources {
        let named = [
            ("node.data_dir", &self.data_dir),
            ("api.bind", &self.api_bind),
            ("network.p2p_port", &self.p2p_port),
            ("cluster.initial_members", &self.initial_members),
            ("cluster.join", &self.join),
            ("cluster.invitation", &self.invitation),
            ("cluster.invitation_file", &self.invitation_file),
            ("logging.level", &self.log_level),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        Sources {
            file: self.config.clone(),
            variables,
            environment: self.environment,
            flags: self.set.iter().cloned().chain(named).collect(),
        }
    }
}

/// Runs the node until it is told to stop, or must.
pub fn run(args: Args) -> Result<(), Failure> {
    let (config, layered) = Config::load(&args.sources(variables())).map_err(|error| refused(&error))?;
    if args.print_config {
        return output::bytes(layered.print().as_bytes());
    }
    telemetry::init(&config.logging.level, format(&config))
        .map_err(|error| Failure { kind: Kind::Usage, ..Failure::because("start logging", &error) })?;
    telemetry::abort_on_panic(|| storage::is_opening() || kafka::is_guarded());
    telemetry::metrics::enable(config.metrics.enabled);
    match &args.config {
        Some(path) => tracing::info!(path = %path.display(), "configuration read"),
        None => tracing::info!("no configuration file, using defaults"),
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    // Thousands of workers take thousands of sockets.
    telemetry::raise_file_limit(u64::MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("ciro").build()?;
    let ended = runtime.block_on(node::run(config, args.joins()));
    // Blocking work that is stuck on a dead disk must not hold the process.
    runtime.shutdown_background();
    ended.map_err(|error| Failure::new(Kind::Failed, failure::chain(&error)))
}

/// Whether the variable is set that stands for `--invitation`.
fn varied() -> bool {
    std::env::var_os("CIRO_INVITATION").is_some()
}

fn format(config: &Config) -> telemetry::Format {
    match config.logging.format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    }
}

/// Variables that are text; others can not be ours.
pub(super) fn variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

pub(super) fn refused(error: &crate::config::Error) -> Failure {
    let count = error.0.len();
    let heading =
        if count == 1 { "the configuration is refused" } else { "the configuration is refused, for several reasons" };
    Failure::new(Kind::Usage, format!("{heading}:\n  {}", error.0.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn named_flags_and_set_reach_the_configuration() {
        let line = Line::parse_from([
            "start",
            "-e",
            "test",
            "--set",
            "scheduler.window_ms=100",
            "--set",
            "network.p2p_port=7",
            "--p2p-port",
            "9",
        ]);
        let (config, _) = Config::load(&line.args.sources(vec![])).unwrap();
        assert_eq!(config.environment, Environment::Test);
        assert_eq!((config.scheduler.window_ms, config.network.p2p_port), (100, 9));
    }

    #[test]
    fn who_was_told_to_join_was_so_with_nothing_behind_the_flag_too() {
        let joins = |args: &[&str]| Line::parse_from([&["start"], args].concat()).args.joins();
        assert!(!joins(&[]) && !joins(&["--initial-members", ""]));
        for flag in ["--join", "--invitation-file", "--invitation"] {
            assert!(joins(&[flag, ""]), "{flag}");
        }
    }

    #[test]
    fn a_refusal_is_a_usage_error_that_lists_every_reason() {
        let line = Line::parse_from(["start", "--set", "a=1", "--set", "b=2"]);
        let failure = refused(&Config::load(&line.args.sources(vec![])).unwrap_err());
        assert_eq!(failure.code(), 2);
        assert_eq!(failure.message.lines().count(), 3, "{failure}");
        assert!(Line::try_parse_from(["start", "--set", "a"]).is_err());
        assert!(Line::try_parse_from(["start", "-e", "prod"]).is_err());
    }
}
