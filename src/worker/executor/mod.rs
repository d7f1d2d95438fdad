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
#[cfg(test)]
mod tests;
mod wasm;
mod workspace;

pub use http::Server;
pub use process::Program;
pub use wasm::Sandbox;
pub use workspace::Workspace;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::desk::{Cause, Key};
use crate::domain::Digest;

/// One attempt to run.
#[derive(Clone, Debug)]
pub struct Work {
    pub key: Key,
    pub kind: String,
    pub input: Bytes,
    /// Where the input is, if it did not come along.
    pub input_uri: Option<String>,
    /// What the client said the input is.
    pub input_sha256: Option<Digest>,
    pub timeout: Duration,
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
    Failed(Failure),
    /// A newer attempt is here: nothing is to be reported.
    Abandoned,
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
    fn permanent(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), ..Self::default() }
    }

    pub(super) fn retryable(code: &'static str, detail: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(code, detail) }
    }

    fn ill(code: &'static str, detail: impl Into<String>) -> Self {
        Self { ill: true, ..Self::retryable(code, detail) }
    }
}

#[derive(Debug)]
pub struct Executor {
    recipes: BTreeMap<String, Recipe>,
    workspace: Workspace,
    progress: progress::Board,
}

impl Executor {
    pub fn new(recipes: BTreeMap<String, Recipe>, workspace: Workspace) -> Self {
        Self { recipes, workspace, progress: progress::Board::default() }
    }

    /// What the attempts that run say of themselves.
    pub fn progress(&self) -> &progress::Board {
        &self.progress
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
                let digest = hex::encode(Digest::of(&work.input).0);
                Ended::Output { bytes: Bytes::from(digest), exit_code: 0 }
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
        let output_max = recipe.max_output_bytes;
        let run = async {
            match process {
                Process::Command(program) => process::run(program, work, output_max, &place, stop).await,
                Process::Module(sandbox) => wasm::run(sandbox, work, output_max, &place, stop).await,
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
    let size = work.input.len() as u64;
    if size > recipe.max_input_bytes {
        let detail = format!("{size} bytes, this worker takes {}", recipe.max_input_bytes);
        return Err(Failure::retryable("input_too_large", detail));
    }
    if work.input_uri.is_some() {
        let takes_uri = matches!(&recipe.action, Action::Command(program) if program.takes_uri);
        let detail = "this worker does not fetch inputs of this type";
        return if takes_uri { Ok(()) } else { Err(Failure::retryable("input_unavailable", detail)) };
    }
    match work.input_sha256 {
        Some(claimed) if claimed != Digest::of(&work.input) => {
            Err(Failure::retryable("input_damaged", format!("not the bytes of {claimed}")))
        }
        _ => Ok(()),
    }
}
