//! What the node says about itself: logs, metrics, and the panic hook that aborts.
//!
//! Logs go to standard error, as text for people or JSON for machines; standard
//! output belongs to the command line's answers. `RUST_LOG` wins over the
//! configured level. [`metrics`] counts, [`history`] remembers the key figures,
//! [`request`] knows whom a task works for.
//!
//! A panic means a broken invariant. The process logs it and aborts, because a
//! node that lost one of its tasks is worse than a node that is down: the
//! others take over from a dead one.
//!
//! Absent on purpose: log files and rotation (the service manager's work), and
//! any reading of the configuration (callers pass plain values).

mod backup;
mod book;
mod chain;
mod figures;
mod histogram;
pub mod history;
mod kafka;
pub mod metrics;
mod process;
pub mod request;
#[cfg(feature = "prometheus")]
mod text;
pub mod traffic;

pub use process::raise_file_limit;

use std::io::IsTerminal;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the log filter {0:?}")]
    Filter(String, #[source] ParseError),
    #[error("install the log subscriber")]
    Install(#[source] tracing_subscriber::util::TryInitError),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, with the fields of the event and of its spans.
    Json,
}

/// Libraries that say too much at their usual levels.
const QUIET: &str = ",openraft=warn,libp2p_kad=error,libp2p_mdns=error";

/// Starts logging to standard error. `RUST_LOG`, if set and not empty, replaces `level`.
///
/// # Errors
///
/// A filter that can not be parsed; a subscriber that is already installed.
pub fn init(level: &str, format: Format) -> Result<(), Error> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if !wanted.trim().is_empty() => parse(&wanted)?,
        _ => parse(&quieted(level))?,
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init(),
    };
    installed.map_err(Error::Install)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|error| Error::Filter(filter.to_owned(), error))
}

/// A bare level is for our own code; libraries stay at `info` at most, and those
/// that repeat their whole state or the obvious there, lower still.
fn quieted(level: &str) -> String {
    match level {
        "off" | "error" => level.to_owned(),
        "warn" => format!("warn{QUIET}"),
        "info" | "debug" | "trace" => {
            format!("info,ciro={level},ciro_coordinator={level},ciro_worker={level}{QUIET}")
        }
        directives => directives.to_owned(),
    }
}

/// Makes a panic anywhere log itself and abort the process, unless `spared`
/// says that the panicking thread is inside code that catches it.
pub fn abort_on_panic(spared: fn() -> bool) {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if spared() {
            return;
        }
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            place,
            reason = reason(panic.payload()),
            "panicked; aborting"
        );
        previous(panic);
        std::process::abort();
    }));
}

fn reason(payload: &dyn std::any::Any) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verbose_level_is_for_our_own_code() {
        assert_eq!(quieted("error"), "error");
        assert_eq!(quieted("warn"), format!("warn{QUIET}"));
        assert_eq!(quieted("ciro=trace"), "ciro=trace");
        let filter = quieted("debug");
        assert!(filter.starts_with("info,ciro=debug") && filter.contains(",openraft=warn"), "{filter}");
        assert!(parse(&filter).is_ok());
    }

    #[test]
    fn a_broken_filter_is_an_error_that_names_it() {
        let error = parse("ciro=loud").unwrap_err();
        assert_eq!(error.to_string(), r#"read the log filter "ciro=loud""#);
    }
}
