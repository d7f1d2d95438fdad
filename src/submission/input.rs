//! An input by reference, as clients write it.

use reqwest::Url;
use serde::Deserialize;
use utoipa::ToSchema;

use super::decode::Int;
use super::{Fault, FieldError, integer, invalid};
use crate::domain::Digest;
use crate::domain::job::Input;

/// Longest URI, in characters.
const URI_MAX: usize = 2_000;

/// Nobody fetches more.
const SIZE_MAX: u64 = 1 << 40;

/// Where the input is, and what it must be.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InputIn)]
pub struct InputDto {
    /// http, https or file; a worker fetches it whose operator allows that.
    #[schema(
        required,
        nullable = false,
        max_length = 2000,
        pattern = "^(https?|file)://",
        example = "https://example.org/data.bin"
    )]
    pub(super) uri: Option<String>,
    /// Of the bytes: 64 hex digits. A worker runs the job with nothing else.
    #[schema(required, nullable = false, pattern = "^(0x)?[0-9a-fA-F]{64}$")]
    pub(super) sha256: Option<String>,
    /// In bytes.
    #[schema(required, nullable = false, value_type = u64, minimum = 0, maximum = 1099511627776_u64)]
    pub(super) size: Option<Int>,
}

impl InputDto {
    pub fn check(self) -> Result<Input, FieldError> {
        let uri = self.uri.ok_or_else(|| missing("input.uri", "input.uri is required"))?;
        check_uri(&uri)?;
        let sha256 = self.sha256.ok_or_else(|| missing("input.sha256", "input.sha256 is required"))?;
        let size = self.size.ok_or_else(|| missing("input.size", "input.size is required"))?;
        Ok(Input {
            sha256: digest(&sha256)?,
            size: integer("input.size", Some(size), 0..=SIZE_MAX, 0)?,
            uri: Some(uri.into()),
        })
    }
}

fn missing(field: &'static str, detail: &str) -> FieldError {
    let hint = Some("Workers compare what they fetch: `sha256sum FILE` and `stat -c %s FILE` say what to expect.");
    FieldError { fault: Fault::Missing, field, detail: detail.to_owned(), hint }
}

fn digest(text: &str) -> Result<Digest, FieldError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Digest).ok_or_else(|| invalid("input.sha256", "input.sha256 must be 64 hex digits".to_owned()))
}

fn check_uri(uri: &str) -> Result<(), FieldError> {
    let refuse = |what: &str| Err(invalid("input.uri", format!("input.uri {what}")));
    if uri.len() > URI_MAX {
        return refuse(&format!("must have at most {URI_MAX} characters, not {}", uri.len()));
    }
    let known = ["http://", "https://", "file://"].iter().any(|scheme| uri.starts_with(scheme));
    if !known {
        return refuse("must begin with http://, https:// or file://");
    }
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("must be visible ASCII characters; others are percent-encoded");
    }
    let Ok(url) = Url::parse(uri) else { return refuse("is not a URI") };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("must not hold a user or a password: every node and worker sees it");
    }
    if url.fragment().is_some() {
        return refuse("must not have a fragment");
    }
    match (url.scheme(), url.host_str()) {
        ("file", Some(_)) => refuse("of a file must not name a host, like file:///srv/data/x"),
        ("file", None) if url.path().ends_with('/') => refuse("must name a file"),
        _ => Ok(()),
    }
}
