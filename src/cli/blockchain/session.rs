//! A connection of the command line's own to the chain, with the keys of a node's configuration.

use std::io::{BufRead, IsTerminal, Write};
use std::process::{Command, Stdio};

use super::args::Chain;
use crate::chain::{Error, Handle, Hidden, Options, Password, Signer, keys};
use crate::cli::failure::{Failure, Kind};
use crate::cli::start;
use crate::config::{Config, Sources};
use crate::domain::chain::Felt;
use crate::node::PASSWORD_VARIABLE;
use crate::tasks::Tasks;

/// Bytes of what is typed.
const LINE_MAX: usize = 1_024;

/// The settings of a node, and the tasks a client runs on. Dropping it ends them.
pub struct Session {
    pub config: Config,
    pub options: Options,
    tasks: Tasks,
}

impl Session {
    pub fn new(chain: &Chain) -> Result<Self, Failure> {
        let named = [
            ("blockchain.rpc_url", &chain.rpc_url),
            ("blockchain.account_address", &chain.account),
            ("blockchain.keystore", &chain.keystore),
            ("blockchain.keystore_password_file", &chain.password_file),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        let sources = Sources {
            file: chain.config.clone(),
            variables: start::variables(),
            environment: chain.environment,
            flags: chain.set.iter().cloned().chain(named).collect(),
        };
        let (config, _) = Config::load(&sources).map_err(|error| start::refused(&error))?;
        let options = config.chain_client(std::env::var(PASSWORD_VARIABLE).ok());
        Ok(Self { config, options, tasks: Tasks::new() })
    }

    /// A client with the account's key.
    pub fn signing(&self) -> Result<Handle, Failure> {
        let mut options = self.options.clone();
        if let Signer::Keystore { password, .. } = &mut options.signer
            && password.is_none()
        {
            *password = Some(Password::Given(Hidden::new(type_password(false)?)));
        }
        Handle::for_one_use(options, &self.tasks).map_err(|error| failed(&error))
    }

    /// A client without a key, for whom `account` is the account.
    pub fn watching(&self, account: Felt) -> Result<Handle, Failure> {
        let options = Options { account, signer: Signer::None, ..self.options.clone() };
        Handle::for_one_use(options, &self.tasks).map_err(|error| failed(&error))
    }

    /// Of the file, the variable, or typed; twice for a `new` one.
    pub fn password(&self, new: bool) -> Result<String, Failure> {
        let file = &self.config.blockchain.keystore_password_file;
        if !file.as_os_str().is_empty() {
            return keys::read_password(file).map_err(|error| failed(&error));
        }
        match std::env::var(PASSWORD_VARIABLE) {
            Ok(password) if !password.is_empty() => Ok(password),
            _ => type_password(new),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn type_password(new: bool) -> Result<String, Failure> {
    let password = type_secret("keystore password: ")?;
    if new && type_secret("once more: ")? != password {
        return Err(Failure::usage("these are two passwords"));
    }
    Ok(password)
}

/// Reads a line without showing it on a terminal.
pub fn type_secret(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(|| Quiet::new(prompt));
    let mut line = String::new();
    let mut limited = std::io::Read::take(stdin.lock(), LINE_MAX as u64);
    limited.read_line(&mut line)?;
    drop(quiet);
    let line = line.trim_end_matches(['\n', '\r']);
    if line.is_empty() {
        return Err(Failure::usage("nothing was typed")
            .hint(format!("name a file with --password-file, or set {PASSWORD_VARIABLE}")));
    }
    Ok(line.to_owned())
}

/// A terminal that does not show what is typed.
struct Quiet;

impl Quiet {
    fn new(prompt: &str) -> Self {
        // Nobody is left to ask when standard error is gone.
        let _ = std::io::stderr().write_all(prompt.as_bytes());
        stty("-echo");
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        stty("echo");
        let _ = std::io::stderr().write_all(b"\n");
    }
}

fn stty(what: &str) {
    // Where there is none, what is typed is seen.
    let _ = Command::new("stty").arg(what).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// What the chain did not do, and which exit code says so.
pub fn failed(error: &Error) -> Failure {
    let (kind, hint) = match error {
        Error::Down(_) | Error::Busy { .. } | Error::Stopping => {
            (Kind::Unreachable, Some("is the node up? name it with --rpc-url URL, or in --config"))
        }
        Error::OtherChain { .. } => (Kind::Refused, Some("see blockchain.chain_id and blockchain.rpc_url")),
        Error::Key(_) => (Kind::Usage, None),
        Error::Refused(text) if text.contains("less STRK") => {
            (Kind::Refused, Some("`ciro-coordinator blockchain account fund-hint` says how it comes to some"))
        }
        Error::Unfit(_) | Error::Refused(_) | Error::Reverted { .. } => (Kind::Refused, None),
        Error::TooMany { .. } => (Kind::Failed, None),
    };
    let failure = Failure::new(kind, error.to_string());
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
