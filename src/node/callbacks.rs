//! Opens what posts callbacks, with the secret that it signs with.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::leader;

/// Bytes of a secret, and of the file it is in.
const SECRET_MIN: usize = 16;
const FILE_MAX: u64 = 4 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read callbacks.secret_file {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("callbacks.secret_file {0} can be read by everybody; take that away (chmod o= {0})")]
    Open(PathBuf),
    #[error("the first line of callbacks.secret_file {0} is no secret; at least {SECRET_MIN} characters")]
    Short(PathBuf),
    #[error("callbacks.ca_file {file}")]
    Authorities {
        file: PathBuf,
        #[source]
        source: leader::CallbackAuthorityError,
    },
    #[error("make an HTTP client")]
    Client(#[from] reqwest::Error),
}

/// `None`: callbacks are disabled.
pub(super) fn open(config: &Config) -> Result<Option<leader::Callbacks>, Error> {
    let told = &config.callbacks;
    let file = &told.secret_file;
    let secret = match told.secret.as_ref().map(|secret| secret.expose().to_owned()) {
        None if told.enabled && !file.as_os_str().is_empty() => Some(read(file)?),
        given => given,
    };
    let authorities = if told.enabled { authorities(&told.ca_file)? } else { vec![] };
    let settings = config.callback_settings(secret.as_deref(), authorities);
    Ok(settings.map(leader::Callbacks::new).transpose()?)
}

fn authorities(file: &Path) -> Result<Vec<leader::CallbackAuthority>, Error> {
    if file.as_os_str().is_empty() {
        return Ok(vec![]);
    }
    leader::read_callback_authorities(file).map_err(|source| Error::Authorities { file: file.to_owned(), source })
}

fn read(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::Read { file: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    // A group may: secrets that a supervisor hands over belong to one.
    if file.metadata().map_err(fail)?.permissions().mode() & 0o007 != 0 {
        return Err(Error::Open(path.to_owned()));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(fail)?;
    let line = text.lines().next().unwrap_or_default();
    if line.len() < SECRET_MIN { Err(Error::Short(path.to_owned())) } else { Ok(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_a_file_that_few_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read(&path).map_err(|error| error.to_string())
        };
        assert_eq!(write("0123456789abcdef\nnot this\n", 0o640).unwrap(), "0123456789abcdef");
        assert!(write("0123456789abcdef\n", 0o644).unwrap_err().contains("can be read by everybody"));
        let short = write("hunter2\n", 0o600).unwrap_err();
        assert!(short.contains("at least 16 characters") && !short.contains("hunter"), "{short}");
        assert!(matches!(read(&dir.path().join("none")), Err(Error::Read { .. })));
    }
}
