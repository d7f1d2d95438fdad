//! A module a client brought, run by [`crate::worker::wasm`] in a process.
//!
//! The payload says which module and what input ([`crate::wire::wasm`]). A module that
//! could be started is kept, and may be named by its digest from then on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::process::{self, Program};
use super::sink::Sink;
use super::workspace::Place;
use super::{Ended, Failure, Work};
use crate::tasks::Tasks;
use crate::wire::wasm::{Call, Module};
use crate::worker::desk::Cause;
use crate::worker::modules::Modules;
use crate::worker::wasm::{Args, End};

/// Environment and arguments a process needs beside what all have.
const MODULE: &str = "module.wasm";

/// How modules are run here.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The worker's program, which runs modules when told so.
    pub runner: PathBuf,
    pub memory_bytes: u64,
    pub fuel: u64,
    pub modules: Modules,
}

pub(super) async fn run(
    sandbox: &Sandbox,
    work: &Work,
    sink: Sink<'_>,
    place: &Place,
    stop: oneshot::Receiver<Cause>,
) -> Ended {
    let call = match Call::decode(&work.input) {
        Ok(call) => call,
        Err(reason) => return Ended::Failed(Failure::permanent("wasm_payload", reason)),
    };
    let module = match module(sandbox, &call.module).await {
        Ok(module) => module,
        Err(failure) => return Ended::Failed(failure),
    };
    if let Err(error) = tokio::fs::write(place.scratch(MODULE), &module).await {
        return Ended::Failed(Failure::ill("workspace", format!("write module: {error}")));
    }
    let program = program(sandbox, work, place);
    // Standard input is the call's, whether the payload came along or was fetched.
    let input = Work { input: call.input, input_uri: None, input_sha256: None, ..work.clone() };
    let ended = judge(process::run(&program, &input, sink, place, stop).await);
    let startable = !matches!(&ended, Ended::Failed(failure) if failure.code == "wasm_invalid");
    if startable && matches!(call.module, Module::Inline(_)) {
        keep(sandbox, module).await;
    }
    ended
}

async fn module(sandbox: &Sandbox, module: &Module) -> Result<Bytes, Failure> {
    match module {
        Module::Inline(bytes) => Ok(bytes.clone()),
        Module::Known(digest) => {
            let (modules, digest) = (sandbox.modules.clone(), *digest);
            let found = Tasks::new().spawn_blocking(move || modules.get(&digest)).await;
            let unknown = || Failure::retryable("module_unknown", format!("this worker has no module {digest}"));
            found.ok().flatten().ok_or_else(unknown)
        }
    }
}

/// Keeps the module for whoever names it next. Without it the run is as good.
async fn keep(sandbox: &Sandbox, module: Bytes) {
    let modules = sandbox.modules.clone();
    let kept = Tasks::new().spawn_blocking(move || modules.put(&module)).await;
    if let Err(error) = kept.unwrap_or_else(|error| Err(error.into())) {
        tracing::warn!(%error, "cannot keep module");
    }
}

fn program(sandbox: &Sandbox, work: &Work, place: &Place) -> Program {
    let args = Args {
        memory_bytes: sandbox.memory_bytes,
        fuel: sandbox.fuel,
        cpu_secs: work.timeout.as_secs().saturating_add(10),
        module: place.scratch(MODULE),
    };
    Program {
        path: sandbox.runner.clone(),
        arguments: args.to_vec(),
        environment: BTreeMap::new(),
        permanent_exit_codes: vec![],
    }
}

/// What a module did once, it does again; what went wrong with its process may not.
fn judge(ended: Ended) -> Ended {
    let Ended::Failed(failure) = ended else { return ended };
    if failure.code != "exit_code" {
        return Ended::Failed(failure);
    }
    let code = End::failure_code(failure.exit_code);
    let broken = code == Some("wasm_broken");
    Ended::Failed(Failure {
        code: code.unwrap_or("exit_code"),
        exit_code: if code.is_some() { 0 } else { failure.exit_code },
        retryable: broken,
        ill: broken,
        ..failure
    })
}
