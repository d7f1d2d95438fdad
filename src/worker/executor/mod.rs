//! Runs one attempt and says what became of it.
//!
//! A job type has a [`Recipe`]: a command the operator allows, or something
//! built in. There is no shell and no word of the job in the command line; a job
//! brings bytes, and they go to standard input or into a file.
//!
//! Invariants
//!
//! * Input and output are bounded before they are held in memory.
//! * Every attempt has a directory of its own, gone when the attempt is.
//! * When [`Executor::run`] returns, no process of the attempt's group is left.

mod http;
mod leftovers;
mod pipes;
mod process;
mod progress;
mod sink;
#[cfg(test)]
mod tests;
mod wasm;
mod workspace;

pub use http::Server;
pub use process::Program;
pub use sink::Keeping;
pub use wasm::Sandbox;
pub use workspace::Workspace;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::sink::Sink;
use super::desk::{Cause, Key};
use super::shelf::Pin;
use crate::domain::Digest;

/// One attempt to run.
#[derive(Clone, Debug)]
pub struct Work {
    pub key: Key,
    pub kind: String,
    pub input: Bytes,
    /// Where the input is, if it did not come along.
    pub input_uri: Option<Reference>,
    /// What the client said the input is.
    pub input_sha256: Option<Digest>,
    pub timeout: Duration,
}

/// An input that is somewhere else, and here once it was fetched.
#[derive(Clone, Debug)]
pub struct Reference {
    pub uri: String,
    pub size: u64,
    /// Holds the bytes; they were compared with the digest.
    pub file: Option<Arc<Pin>>,
}

/// How one type of job is run.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub action: Action,
    pub max_input_bytes: u64,
    pub max_output_bytes: u64,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Empty output, at once: for benchmarks.
    Noop,
    /// The input's SHA-256 in hex, computed here.
    Digest,
    Command(Program),
    /// A module that the payload brings.
    Wasm(Sandbox),
    /// A model server the operator runs.
    Http(Server),
}

impl Action {
    /// Whether a fetched input must be in memory; others take it as a file, or not at all.
    pub fn loads_input(&self) -> bool {
        matches!(self, Self::Wasm(_) | Self::Http(_))
    }
}

/// What runs in a process and a directory of its own.
enum Process<'a> {
    Command(&'a Program),
    Module(&'a Sandbox),
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Output {
        bytes: Bytes,
        exit_code: i32,
    },
    /// The output is on the shelf.
    Kept {
        sha256: Digest,
        size: u64,
        exit_code: i32,
    },
    Failed(Failure),
    /// A newer attempt is here: nothing is to be reported.
    Abandoned,
}

impl Ended {
    /// What an order to stop comes to.
    pub fn stopped(cause: Cause) -> Self {
        let code = match cause {
            Cause::Cancelled => "cancelled",
            Cause::LeaseLost => "lease_lost",
            Cause::Stopping => "worker_stopping",
            Cause::Replaced => return Self::Abandoned,
        };
        Self::Failed(Failure::retryable(code, ""))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Stable and `snake_case`.
    pub code: &'static str,
    pub detail: String,
    pub exit_code: i32,
    /// Another attempt, here or elsewhere, may do better.
    pub retryable: bool,
    /// It is not the job: this worker could run no other either.
    pub ill: bool,
}

impl Failure {
    pub(super) fn permanent(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), ..Self::default() }
    }

    pub(super) fn retryable(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(code, detail) }
    }

    pub(super) fn ill(code: &'static str, detail: impl Into<String>) -> Self {
        Self { ill: true, ..Self::retryable(code, detail) }
    }
}

#[derive(Debug)]
pub struct Executor {
    recipes: BTreeMap<String, Recipe>,
    workspace: Workspace,
    progress: progress::Board,
    keeping: Option<Keeping>,
}

impl Executor {
    pub fn new(recipes: BTreeMap<String, Recipe>, workspace: Workspace) -> Self {
        Self { recipes, workspace, progress: progress::Board::default(), keeping: None }
    }

    /// What the attempts that run say of themselves.
    pub fn progress(&self) -> &progress::Board {
        &self.progress
    }

    /// Puts outputs that are too large for the log on a shelf. Without one they must fit into memory.
    #[must_use]
    pub fn keeping(self, keeping: Keeping) -> Self {
        Self { keeping: Some(keeping), ..self }
    }

    /// Whether a fetched input of the type must be in memory: see [`Action::loads_input`].
    pub fn loads_input(&self, kind: &str) -> bool {
        self.recipes.get(kind).is_some_and(|recipe| recipe.action.loads_input())
    }

    pub fn knows(&self, kind: &str) -> bool {
        self.recipes.contains_key(kind)
    }

    /// Runs `work` to its end, its timeout, or an order to stop.
    ///
    /// Must not be dropped before it returns: it cleans up behind itself.
    pub async fn run(&self, work: &Work, stop: oneshot::Receiver<Cause>) -> Ended {
        let Some(recipe) = self.recipes.get(&work.kind) else {
            return Ended::Failed(Failure::retryable("unknown_type", work.kind.clone()));
        };
        if let Err(failure) = check_input(work, recipe) {
            return Ended::Failed(failure);
        }
        match &recipe.action {
            Action::Noop => Ended::Output { bytes: Bytes::new(), exit_code: 0 },
            Action::Digest => {
                // What was fetched was compared with its digest.
                let fetched = work.input_sha256.filter(|_| work.input_uri.is_some());
                let digest = fetched.unwrap_or_else(|| Digest::of(&work.input));
                Ended::Output { bytes: Bytes::from(hex::encode(digest.0)), exit_code: 0 }
            }
            Action::Http(server) => http::run(server, work, recipe.max_output_bytes, stop).await,
            Action::Command(program) => self.run_process(work, recipe, &Process::Command(program), stop).await,
            Action::Wasm(sandbox) => self.run_process(work, recipe, &Process::Module(sandbox), stop).await,
        }
    }

    async fn run_process(
        &self,
        work: &Work,
        recipe: &Recipe,
        process: &Process<'_>,
        stop: oneshot::Receiver<Cause>,
    ) -> Ended {
        let place = match self.workspace.enter(work.key).await {
            Ok(place) => place,
            Err(error) => return Ended::Failed(Failure::ill("workspace", error.to_string())),
        };
        let sink = Sink { max: recipe.max_output_bytes, keeping: self.keeping.as_ref() };
        let run = async {
            match process {
                Process::Command(program) => process::run(program, work, sink, &place, stop).await,
                Process::Module(sandbox) => wasm::run(sandbox, work, sink, &place, stop).await,
            }
        };
        let ended = tokio::select! {
            ended = run => ended,
            never = self.progress.follow(work.key, place.scratch(process::PROGRESS)) => never,
        };
        self.progress.forget(work.key);
        place.leave().await;
        ended
    }
}

/// Kills at once whatever runs in the workspace at `root`, for the moment before the process ends.
pub fn kill_everything(root: &Path) {
    leftovers::kill_all(root);
}

fn check_input(work: &Work, recipe: &Recipe) -> Result<(), Failure> {
    if let Some(Reference { file, .. }) = &work.input_uri {
        // Whoever fetched it has compared it.
        let detail = "this worker does not fetch inputs";
        return if file.is_some() { Ok(()) } else { Err(Failure::retryable("input_unavailable", detail)) };
    }
    let size = work.input.len() as u64;
    if size > recipe.max_input_bytes {
        let detail = format!("{size} bytes, this worker takes {}", recipe.max_input_bytes);
        return Err(Failure::retryable("input_too_large", detail));
    }
    match work.input_sha256 {
        Some(claimed) if claimed != Digest::of(&work.input) => {
            Err(Failure::retryable("input_damaged", format!("not the bytes of {claimed}")))
        }
        _ => Ok(()),
    }
}
