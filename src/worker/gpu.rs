//! NVIDIA graphics cards, as `nvidia-smi` tells of them.
//!
//! No tool, no answer in time, or one that makes no sense: no cards. The cards
//! of a worker are offered as one number of cards and the memory of the smallest,
//! so that a job fits whichever it gets.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::warn;

use crate::clock;

const TOOL: &str = "nvidia-smi";
const QUESTION: [&str; 2] = ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"];

/// A driver that is being loaded takes some seconds.
const LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Bytes of the answer, and cards in it.
const ANSWER_MAX: u64 = 64 * 1024;
const CARDS_MAX: usize = 1_024;

/// What a worker has of graphics cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gpus {
    pub count: u32,
    /// Of the first card.
    pub model: String,
    /// Of the smallest card, in MiB.
    pub memory_mb: u64,
    /// Of the first card, such as "8.6"; empty if the driver does not say.
    pub compute_capability: String,
}

/// The cards of this machine. Waits for the tool.
pub(super) fn detect() -> Gpus {
    ask(TOOL).as_deref().map(parse).unwrap_or_default()
}

fn ask(tool: &str) -> Option<String> {
    let mut command = Command::new(tool);
    command.args(QUESTION).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().ok()?;
    if !ended_well(&mut child) {
        kill(&mut child);
        warn!(tool, "it does not tell of graphics cards: none are offered");
        return None;
    }
    let mut said = String::new();
    // What fits into a pipe: the tool has ended.
    child.stdout.take()?.take(ANSWER_MAX).read_to_string(&mut said).ok()?;
    Some(said)
}

fn ended_well(child: &mut Child) -> bool {
    let start = clock::instant();
    while start.elapsed() < LIMIT {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(LOOK_EVERY),
            Err(_) => return false,
        }
    }
    false
}

fn kill(child: &mut Child) {
    if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(child.id())) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = child.wait();
    }
}

/// One card per line: name, MiB, compute capability. A name has no comma.
fn parse(answer: &str) -> Gpus {
    let card = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (name, memory) = (fields.next()?, fields.next()?.parse::<u64>().ok()?);
        let known = |text: &&str| text.starts_with(|first: char| first.is_ascii_digit());
        (!name.is_empty()).then(|| (name.to_owned(), memory, fields.next().filter(known).unwrap_or("").to_owned()))
    };
    let cards: Vec<_> = answer.lines().filter_map(card).take(CARDS_MAX).collect();
    let Some((model, _, compute_capability)) = cards.first().cloned() else { return Gpus::default() };
    Gpus {
        count: u32::try_from(cards.len()).unwrap_or(u32::MAX),
        model,
        memory_mb: cards.iter().map(|(_, memory, _)| *memory).min().unwrap_or(0),
        compute_capability,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_the_tool_prints_is_read() {
        let two = parse("NVIDIA GeForce RTX 3090, 24576, 8.6\nNVIDIA A10, 23028, 8.6\n");
        assert_eq!(two.count, 2);
        assert_eq!((two.model.as_str(), two.memory_mb), ("NVIDIA GeForce RTX 3090", 23_028));
        assert_eq!(two.compute_capability, "8.6");
        assert_eq!(parse("NVIDIA H100 80GB HBM3, 81559, 9.0\n").memory_mb, 81_559);
        let old = parse("Tesla K80, 11441, [N/A]\n");
        assert_eq!((old.count, old.compute_capability.as_str()), (1, ""), "a driver that does not say");
    }

    #[test]
    fn what_makes_no_sense_is_no_card() {
        for answer in [
            "",
            "No devices were found\n",
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
            "NVIDIA A10, [N/A], 8.6\n",
            ", 1, 2\n",
        ] {
            assert_eq!(parse(answer), Gpus::default(), "{answer:?}");
        }
    }

    #[test]
    fn the_tool_is_asked_and_need_not_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let tool = directory.path().join("nvidia-smi");
        let path = tool.to_str().unwrap();
        assert_eq!(ask(path), None);
        let script = |text: &str| {
            // Renamed into place: a file that is open for writing can not be run.
            let draft = directory.path().join("draft");
            std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&draft, &tool).unwrap();
        };
        script(
            r#"[ "$1 $2" = "--query-gpu=name,memory.total,compute_cap --format=csv,noheader,nounits" ] && echo "NVIDIA L4, 23034, 8.9""#,
        );
        assert_eq!(ask(path).as_deref().map(parse).unwrap().model, "NVIDIA L4");
        script("echo 'NVIDIA L4, 23034, 8.9'; exit 9");
        assert_eq!(ask(path), None, "it failed");
    }
}
