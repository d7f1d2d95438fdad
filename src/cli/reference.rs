//! `job submit --input-uri`: a reference instead of the bytes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::failure::{Failure, Kind};

#[derive(Debug, Default, clap::Args)]
pub struct Reference {
    /// Where the input is (http, https or file), in place of a payload. With one local PATH, that is the
    /// file it is about: digest and size are taken from it; so they are from a file: URI that is here
    #[arg(long, value_name = "URI")]
    input_uri: Option<String>,
    /// SHA-256 of what --input-uri names, 64 hex digits
    #[arg(long, value_name = "HEX", requires = "input_uri")]
    sha256: Option<String>,
    /// Bytes of what --input-uri names
    #[arg(long, value_name = "BYTES", requires = "input_uri")]
    size: Option<u64>,
}

impl Reference {
    pub fn is_given(&self) -> bool {
        self.input_uri.is_some()
    }

    /// The `input` of a submission; `local` are the files that were named.
    pub fn input(&self, local: &[PathBuf]) -> Result<Option<Value>, Failure> {
        let Some(uri) = &self.input_uri else { return Ok(None) };
        let here = match local {
            [] => here(uri),
            [one] => Some(one.clone()),
            _ => return Err(Failure::usage("one --input-uri can not be for several files")),
        };
        let (sha256, size) = match (&self.sha256, self.size, here) {
            (Some(sha256), Some(size), _) => (sha256.clone(), size),
            (_, _, Some(path)) => {
                let (found, length) = look_at(&path)?;
                (self.sha256.clone().unwrap_or(found), self.size.unwrap_or(length))
            }
            _ => {
                return Err(Failure::usage("what must the input be?")
                    .hint("--sha256 HEX and --size BYTES, or name a local copy of the file"));
            }
        };
        Ok(Some(json!({ "uri": uri, "sha256": sha256, "size": size })))
    }
}

/// The path of a file on this machine.
fn here(uri: &str) -> Option<PathBuf> {
    reqwest::Url::parse(uri).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

/// Digest and size.
fn look_at(path: &Path) -> Result<(String, u64), Failure> {
    let cannot = |error: &std::io::Error| Failure::new(Kind::Usage, format!("read {}: {error}", path.display()));
    let mut file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    let mut hash = Sha256::new();
    let size = std::io::copy(&mut file, &mut hash).map_err(|error| cannot(&error))?;
    Ok((hex::encode(hash.finalize()), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_and_size_are_given_or_taken_from_a_file_that_is_here() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"hello").unwrap();
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let args = |uri: &str, sha256: Option<&str>, size| Reference {
            input_uri: Some(uri.to_owned()),
            sha256: sha256.map(str::to_owned),
            size,
        };
        let web = "https://example.org/x";
        let expected = |uri: &str| Some(json!({"uri": uri, "sha256": sha256, "size": 5}));
        assert_eq!(args(web, Some(sha256), Some(5)).input(&[]).unwrap(), expected(web));
        assert_eq!(args(web, None, None).input(&[file.path().to_owned()]).unwrap(), expected(web));
        let local = format!("file://{}", file.path().display());
        assert_eq!(args(&local, None, None).input(&[]).unwrap(), expected(&local));
        assert_eq!(args(web, Some(sha256), None).input(&[]).unwrap_err().code(), 2);
        assert_eq!(args("file:///nowhere", None, None).input(&[]).unwrap_err().code(), 2);
        assert_eq!(Reference::default().input(&[]).unwrap(), None);
    }
}
