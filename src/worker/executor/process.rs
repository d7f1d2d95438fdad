//! Runs a command as a process group.
//!
//! The group is killed when the command exits, is told to stop, or runs out of
//! time: SIGTERM, two seconds, SIGKILL. A process that leaves the group on
//! purpose is beyond us; it cannot hold the attempt open, though.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::pipes::{self, Watched};
use super::sink::{Sink, Taken};
use super::workspace::Place;
use super::{Ended, Failure, Work, leftovers, progress};
use crate::worker::desk::Cause;
use crate::worker::shelf::Pin;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long we wait at pipes that stay open after the command and its group are gone. The time it takes to store
/// what came out of them does not count.
const DRAIN: Duration = Duration::from_secs(1);

/// Between two looks at whether we wait.
const DRAIN_STEP: Duration = Duration::from_millis(50);

const INPUT: &str = "{input}";
const OUTPUT: &str = "{output}";

/// Name of the file a command may append lines about its progress to.
pub(super) const PROGRESS: &str = "progress";

/// A command an operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// All of the environment but what the job adds.
    pub environment: BTreeMap<String, String>,
    /// Exit codes that say another attempt would fail the same way.
    pub permanent_exit_codes: Vec<i32>,
}

impl Program {
    fn mentions(&self, placeholder: &str) -> bool {
        self.arguments.iter().any(|argument| argument.contains(placeholder))
    }
}

/// How the conversation with a command ended.
enum Said {
    Exited(ExitStatus, Taken),
    /// More than it may, or than there is a place for, or not to be read.
    TooMuch(Taken),
    /// Somebody outside the group keeps the output open.
    HeldOpen,
    Lost(std::io::Error),
    TimedOut,
    Stopped(Cause),
}

pub(super) async fn run(
    program: &Program,
    work: &Work,
    sink: Sink<'_>,
    place: &Place,
    stop: oneshot::Receiver<Cause>,
) -> Ended {
    let (late, stopped) = (tokio::time::sleep(work.timeout), asked_to_stop(stop));
    tokio::pin!(late, stopped);
    if program.mentions(INPUT) {
        let laid_out = tokio::select! {
            laid_out = lay_out(work, place) => laid_out,
            () = &mut late => return judge(program, work, Said::TimedOut, sink, &[], place).await,
            cause = &mut stopped => return Ended::stopped(cause),
        };
        if let Err(error) = laid_out {
            return Ended::Failed(Failure::ill("workspace", format!("write input: {error}")));
        }
    }
    let mut child = match spawn(program, work, place) {
        Ok(child) => child,
        Err(error) => {
            let detail = format!("{}: {error}", program.path.display());
            return Ended::Failed(Failure::ill("spawn", detail));
        }
    };
    let group = Group::of(&child);
    if let Some(Group(pid)) = group
        && let Err(error) = place.note_group(pid.as_raw()).await
    {
        tracing::warn!(job = %work.key.0, %error, "cannot note process group");
    }
    let mut tail = Vec::new();
    let said = tokio::select! {
        said = converse(&mut child, group, work, sink, &mut tail) => said,
        () = late => Said::TimedOut,
        cause = stopped => Said::Stopped(cause),
    };
    end(&mut child, group).await;
    judge(program, work, said, sink, &tail, place).await
}

/// Puts the input into a file of the attempt's own: a command may write to it.
async fn lay_out(work: &Work, place: &Place) -> std::io::Result<()> {
    let path = place.scratch("input");
    match fetched(work) {
        Some(pin) => {
            let (mut from, mut to) = (File::open(pin.path()).await?, File::create(&path).await?);
            tokio::io::copy(&mut from, &mut to).await?;
            to.flush().await
        }
        None => tokio::fs::write(&path, &work.input).await,
    }
}

fn fetched(work: &Work) -> Option<&Pin> {
    work.input_uri.as_ref()?.file.as_deref()
}

fn spawn(program: &Program, work: &Work, place: &Place) -> std::io::Result<Child> {
    let (input, output) = (place.scratch("input"), place.scratch("output"));
    let expand = |argument: &String| {
        argument.replace(INPUT, &input.to_string_lossy()).replace(OUTPUT, &output.to_string_lossy())
    };
    let mut command = Command::new(&program.path);
    command
        .args(program.arguments.iter().map(expand))
        .env_clear()
        .env("HOME", &place.directory)
        .env("TMPDIR", &place.directory)
        .envs(&program.environment)
        .env(leftovers::MARK, work.key.0.to_string())
        .env("CIRO_ATTEMPT", work.key.1.to_string())
        .env("CIRO_JOB_TYPE", &work.kind)
        .env(progress::VARIABLE, place.scratch(PROGRESS))
        .current_dir(&place.directory)
        .stdin(match fetched(work) {
            _ if program.mentions(INPUT) => Stdio::null(),
            Some(pin) => Stdio::from(std::fs::File::open(pin.path())?),
            None => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(reference) = &work.input_uri {
        command.env("CIRO_INPUT_URI", &reference.uri);
        command.env("CIRO_INPUT_SHA256", work.input_sha256.map(|digest| hex::encode(digest.0)).unwrap_or_default());
    }
    command.spawn()
}

/// Feeds the command, reads what it says, waits for its exit.
async fn converse(child: &mut Child, group: Option<Group>, work: &Work, sink: Sink<'_>, tail: &mut Vec<u8>) -> Said {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Said::Lost(std::io::ErrorKind::BrokenPipe.into());
    };
    let stdin = child.stdin.take();
    let busy = AtomicBool::new(false);
    let stdout = Watched { source: stdout, busy: &busy };
    let talk = async {
        let said = async {
            match sink.take(stdout).await {
                much @ (Taken::TooLarge | Taken::NoPlace(_) | Taken::Unread(_)) => Err(much),
                taken => Ok(taken),
            }
        };
        let ((), (), said) = tokio::try_join!(
            infallible(pipes::feed(stdin, &work.input)),
            infallible(pipes::read_tail(stderr, tail)),
            said
        )?;
        Ok::<_, Taken>(said)
    };
    let exit = async {
        let status = child.wait().await;
        // What the command left behind must not keep its pipes open.
        Group::signal(group, Signal::SIGKILL);
        status
    };
    tokio::pin!(talk, exit);
    let (status, said) = tokio::select! {
        said = &mut talk => match said {
            Ok(said) => (exit.await, said),
            Err(much) => return Said::TooMuch(much),
        },
        status = &mut exit => match drain(talk, &busy).await {
            Some(Ok(said)) => (status, said),
            Some(Err(much)) => return Said::TooMuch(much),
            None => return Said::HeldOpen,
        },
    };
    match status {
        Ok(status) => Said::Exited(status, said),
        Err(error) => Said::Lost(error),
    }
}

/// What comes out of pipes whose command is gone. `None`: somebody else holds them open.
async fn drain<T>(mut talk: impl Future<Output = T> + Unpin, busy: &AtomicBool) -> Option<T> {
    let mut waited = Duration::ZERO;
    while waited < DRAIN {
        if let Ok(said) = tokio::time::timeout(DRAIN_STEP, &mut talk).await {
            return Some(said);
        }
        if !busy.load(Ordering::Relaxed) {
            waited += DRAIN_STEP;
        }
    }
    None
}

async fn infallible(work: impl Future<Output = ()>) -> Result<(), Taken> {
    work.await;
    Ok(())
}

/// Never completes if whoever could say so is gone.
pub(super) async fn asked_to_stop(stop: oneshot::Receiver<Cause>) -> Cause {
    match stop.await {
        Ok(cause) => cause,
        Err(_) => std::future::pending().await,
    }
}

#[derive(Clone, Copy, Debug)]
struct Group(Pid);

impl Group {
    fn of(child: &Child) -> Option<Self> {
        child.id().and_then(|pid| i32::try_from(pid).ok()).map(|pid| Self(Pid::from_raw(pid)))
    }

    fn signal(group: Option<Self>, signal: Signal) {
        if let Some(Self(pid)) = group {
            // No such group: it is gone already.
            let _ = killpg(pid, signal);
        }
    }
}

/// Ends the group, if it has not ended.
async fn end(child: &mut Child, group: Option<Group>) {
    if !matches!(child.try_wait(), Ok(Some(_))) {
        Group::signal(group, Signal::SIGTERM);
        let _ = tokio::time::timeout(GRACE, child.wait()).await;
    }
    Group::signal(group, Signal::SIGKILL);
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "cannot wait for command");
    }
}

async fn judge(program: &Program, work: &Work, said: Said, sink: Sink<'_>, tail: &[u8], place: &Place) -> Ended {
    let failure = match said {
        Said::Exited(status, stdout) if status.success() => return output(program, stdout, sink, place).await,
        Said::Exited(status, _) => bad_exit(program, status, tail),
        Said::TooMuch(much) => return sink.end(much).await,
        Said::HeldOpen => Failure::permanent("output_held", "a process that left the group kept the output open"),
        Said::Lost(error) => Failure::ill("wait", error.to_string()),
        Said::TimedOut => {
            let detail = format!("after {} s\n{}", work.timeout.as_secs(), pipes::tail_text(tail));
            Failure::retryable("timeout", detail.trim_end())
        }
        Said::Stopped(cause) => return Ended::stopped(cause),
    };
    Ended::Failed(failure)
}

/// What becomes of an attempt that was made to stop.
pub(super) fn stopped(cause: Cause) -> Ended {
    let code = match cause {
        Cause::Cancelled => "cancelled",
        Cause::LeaseLost => "lease_lost",
        Cause::Stopping => "worker_stopping",
        Cause::Replaced => return Ended::Abandoned,
    };
    Ended::Failed(Failure::retryable(code, ""))
}

fn bad_exit(program: &Program, status: ExitStatus, tail: &[u8]) -> Failure {
    let detail = pipes::tail_text(tail);
    match (status.code(), status.signal()) {
        (Some(exit_code), _) => {
            let retryable = !program.permanent_exit_codes.contains(&exit_code);
            Failure { exit_code, retryable, ..Failure::permanent("exit_code", detail) }
        }
        // As shells count it.
        (None, signal) => {
            let exit_code = 128 + signal.unwrap_or(0);
            Failure { exit_code, ..Failure::retryable("signal", detail) }
        }
    }
}

/// Standard output, or the output file if the command was given one.
async fn output(program: &Program, stdout: Taken, sink: Sink<'_>, place: &Place) -> Ended {
    if !program.mentions(OUTPUT) {
        return sink.end(stdout).await;
    }
    let path = place.scratch("output");
    // Not through a link: a job must not choose what is read.
    let plain = tokio::fs::symlink_metadata(&path).await.is_ok_and(|metadata| metadata.is_file());
    let file = if plain { File::open(&path).await } else { Err(std::io::ErrorKind::NotFound.into()) };
    match file {
        Err(error) => Ended::Failed(Failure::retryable("no_output", format!("output file: {error}"))),
        Ok(file) => sink.end(sink.take(file).await).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_waiting_for_more_counts_against_pipes_that_stay_open() {
        let slow = || Box::pin(tokio::time::sleep(DRAIN * 3 / 2));
        assert_eq!(drain(slow(), &AtomicBool::new(true)).await, Some(()), "a busy disk");
        assert_eq!(drain(slow(), &AtomicBool::new(false)).await, None, "a stranger who holds the pipe");
    }
}
