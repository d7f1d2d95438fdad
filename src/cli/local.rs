//! Commands that need no cluster: `generate-config`, `identity`, `completions`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::json;

use super::failure::{Failure, Kind};
use super::{Cli, output};
use crate::config::{self, Environment};
use crate::mesh::Identity;

#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// development, staging, production or test
    environment: Environment,
    /// Where to; `-` is standard output
    path: PathBuf,
    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct IdentityArgs {
    /// The node's data directory; the key is node.key in it
    #[arg(long, value_name = "PATH", default_value = "data/development")]
    data_dir: PathBuf,
    /// The key's file itself
    #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
    key_file: Option<PathBuf>,
}

pub fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    let text = config::generate(args.environment);
    if args.path == Path::new("-") {
        return output::bytes(text.as_bytes());
    }
    make_parent(&args.path)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!args.force);
    let mut file = options.open(&args.path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(Kind::Refused, format!("{} is there already", args.path.display()))
            .hint("--force overwrites it"),
        _ => cannot("write", &args.path, &error),
    })?;
    file.write_all(text.as_bytes()).map_err(|error| cannot("write", &args.path, &error))
}

pub fn identity(args: &IdentityArgs, as_json: bool) -> Result<(), Failure> {
    let path = args.key_file.clone().unwrap_or_else(|| args.data_dir.join("node.key"));
    make_parent(&path)?;
    let identity = Identity::load_or_create(&path).map_err(|error| Failure::because("open identity", &error))?;
    if as_json {
        return output::json(&json!({ "node_id": identity.id(), "key_file": path }));
    }
    output::line(&identity.id().to_string())
}

pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "ciro-coordinator", &mut script);
    output::bytes(&script)
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(|error| cannot("make directory", parent, &error)),
        None => Ok(()),
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("{action} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_kept_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/c.toml");
        let args = |force| GenerateArgs { environment: Environment::Staging, path: path.clone(), force };
        generate(&args(false)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), config::generate(Environment::Staging));
        fs::write(&path, "mine").unwrap();
        let refused = generate(&args(false)).unwrap_err();
        assert_eq!((refused.code(), refused.hint.as_deref()), (4, Some("--force overwrites it")));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        generate(&args(true)).unwrap();
        assert_ne!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
