//! The programs under test, and what workers of the stories are told to run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The binaries of this build, or those in `CIRO_BIN_DIR`.
pub fn coordinator() -> PathBuf {
    binary("ciro-coordinator", env!("CARGO_BIN_EXE_ciro-coordinator"))
}

pub fn worker() -> PathBuf {
    binary("ciro-worker", env!("CARGO_BIN_EXE_ciro-worker"))
}

fn binary(name: &str, built: &str) -> PathBuf {
    std::env::var_os("CIRO_BIN_DIR").map_or_else(|| PathBuf::from(built), |dir| PathBuf::from(dir).join(name))
}

/// A command that does not inherit our settings.
pub fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CIRO")) {
        command.env_remove(name);
    }
    let level =
        std::env::var("CIRO_TEST_LOG").unwrap_or_else(|_| "info,openraft=warn,ciro::consensus::serve=debug".to_owned());
    command.env("RUST_LOG", level);
    command
}

/// Runs to the end and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// `mark` notes the execution, sleeps as the payload says, answers with the job's name; `steps` says how far it is;
/// `wasm` runs what clients bring.
pub fn worker_configuration(executions: &Path) -> String {
    let script = format!(
        "read name first later; echo \"$name\" >> {file}; \
         if [ \"$(/bin/grep -cx -- \"$name\" {file})\" -gt 1 ]; then /bin/sleep \"$later\"; else /bin/sleep \"$first\"; fi; \
         echo \"done $name\"",
        file = executions.display(),
    );
    let steps = "echo '25% a first step' >> \"$CIRO_PROGRESS_FILE\"; /bin/sleep 8; echo done";
    // Says as many mebibytes as the payload says, none like the one before.
    let large = "read -r mebibytes; /usr/bin/seq -f %07.0f 1 $((mebibytes * 131072))";
    format!(
        "[worker]\nmax_parallel_jobs = 8\n\n[wasm]\nmax_memory_mb = 16\nmax_fuel = 50000000\n\n\
         [jobs.mark]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n\n\
         [jobs.steps]\ncommand = [\"/bin/sh\", \"-c\", '''{steps}''']\n\n\
         [jobs.large]\ncommand = [\"/bin/sh\", \"-c\", '''{large}''']\n\n[jobs.wasm]\nbuiltin = \"wasm\"\n"
    )
}

/// The same job type, from a worker that does no work.
pub fn liar_configuration(executions: &Path) -> String {
    let file = executions.display();
    let script = format!("read name first later; echo \"$name\" >> {file}; echo \"lie $name\"");
    format!("[worker]\nmax_parallel_jobs = 8\n\n[jobs.mark]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\n")
}
