//! Configuration of what does not travel with a job: inputs by reference, and outputs too large for the log.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{self, Layered};
use super::inputs::Policy;
use crate::egress::{self, Authority};

/// References that can be fetched.
pub const SCHEMES: [&str; 3] = ["file", "http", "https"];

/// A report travels to a coordinator in one message of at most 1 MiB.
const INLINE_MAX: u64 = 512 * 1024;

/// Nobody has more, and sums of it stay far from the end of integers.
const BYTES_MAX: u64 = 1 << 40;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inputs {
    pub schemes: Vec<String>,
    pub file_roots: Vec<PathBuf>,
    pub allow_private: bool,
    pub ca_file: PathBuf,
    pub max_bytes: u64,
    pub cache_bytes: u64,
    pub connect_secs: u64,
    pub idle_secs: u64,
    pub total_secs: u64,
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            schemes: vec![],
            file_roots: vec![],
            allow_private: false,
            ca_file: PathBuf::new(),
            max_bytes: 100 << 20,
            cache_bytes: 2 << 30,
            connect_secs: 10,
            idle_secs: 30,
            total_secs: 600,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outputs {
    pub inline_bytes: u64,
    pub store_bytes: u64,
    pub keep_hours: u64,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { inline_bytes: 256 * 1024, store_bytes: 10 << 30, keep_hours: 168 }
    }
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct Freight {
    pub inputs: Policy,
    pub cache_bytes: u64,
    pub inline_bytes: u64,
    pub store_bytes: u64,
    pub keep: Duration,
}

impl Freight {
    /// # Errors
    ///
    /// The first key that makes no sense.
    pub(super) fn check(layered: &Layered) -> Result<Self, config::Error> {
        let (inputs, outputs) = (&layered.file.inputs, &layered.file.outputs);
        let numbers = [
            ("inputs.max_bytes", inputs.max_bytes, 1..=BYTES_MAX),
            ("inputs.cache_bytes", inputs.cache_bytes, inputs.max_bytes..=BYTES_MAX),
            ("inputs.connect_secs", inputs.connect_secs, 1..=3_600),
            ("inputs.idle_secs", inputs.idle_secs, 1..=3_600),
            ("inputs.total_secs", inputs.total_secs, 1..=86_400),
            ("outputs.inline_bytes", outputs.inline_bytes, 0..=INLINE_MAX),
            ("outputs.store_bytes", outputs.store_bytes, 1..=BYTES_MAX),
            ("outputs.keep_hours", outputs.keep_hours, 1..=100_000),
        ];
        for (key, value, wanted) in numbers {
            super::settings::range(layered, key, value, wanted)?;
        }
        Ok(Self {
            inputs: policy(layered, inputs)?,
            cache_bytes: inputs.cache_bytes,
            inline_bytes: outputs.inline_bytes,
            store_bytes: outputs.store_bytes,
            keep: Duration::from_secs(outputs.keep_hours * 3_600),
        })
    }
}

/// Empty: none beside the well-known ones.
fn authorities(layered: &Layered, file: &Path) -> Result<Vec<Authority>, config::Error> {
    if file.as_os_str().is_empty() {
        return Ok(vec![]);
    }
    egress::read_authorities(file).map_err(|error| {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        layered.refuse("inputs.ca_file", format!("{} {error}{source}", file.display()))
    })
}

fn policy(layered: &Layered, inputs: &Inputs) -> Result<Policy, config::Error> {
    let mut schemes = inputs.schemes.clone();
    schemes.sort();
    schemes.dedup();
    if let Some(scheme) = schemes.iter().find(|scheme| !SCHEMES.contains(&scheme.as_str())) {
        let detail = format!("{scheme:?} cannot be fetched: expected some of {}", SCHEMES.join(", "));
        return Err(layered.refuse("inputs.schemes", detail));
    }
    let files = schemes.iter().any(|scheme| scheme == "file");
    match (files, inputs.file_roots.is_empty()) {
        (true, true) => {
            return Err(layered.refuse("inputs.schemes", "\"file\" needs at least one directory in inputs.file_roots"));
        }
        (false, false) => {
            return Err(layered.refuse("inputs.file_roots", "of no use unless inputs.schemes has \"file\""));
        }
        _ => {}
    }
    let canonical = |root: &PathBuf| {
        let refuse = |why: String| layered.refuse("inputs.file_roots", format!("{}: {why}", root.display()));
        let path = root.canonicalize().map_err(|error| refuse(error.to_string()))?;
        if path.is_dir() { Ok(path) } else { Err(refuse("not a directory".to_owned())) }
    };
    Ok(Policy {
        schemes,
        roots: inputs.file_roots.iter().map(canonical).collect::<Result<_, _>>()?,
        roots_named: inputs.file_roots.clone(),
        allow_private: inputs.allow_private,
        authorities: authorities(layered, &inputs.ca_file)?,
        max_bytes: inputs.max_bytes,
        connect: Duration::from_secs(inputs.connect_secs),
        idle: Duration::from_secs(inputs.idle_secs),
        total: Duration::from_secs(inputs.total_secs),
    })
}
