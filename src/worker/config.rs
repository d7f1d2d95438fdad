//! The worker's configuration as written: sections, layers, and who said what.
//!
//! Order: defaults < file < `CIRO_WORKER__SECTION__KEY` < flags. Without a file,
//! the shipped example stands in for it. Every layer is a table of the same
//! shape, so an unknown key is refused wherever it comes from, and an error
//! names the layer that brought the key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::freight;
use crate::domain::Price;
use crate::domain::worker::Tee;

/// The commented example, also the file's stand-in.
pub const EXAMPLE: &str = include_str!("../../config/worker.toml");

const ENV_PREFIX: &str = "CIRO_WORKER__";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: not TOML: {detail}")]
    Syntax { origin: String, detail: String },
    /// A key is unknown or its value is not what it should be.
    #[error("{origin}: {key}: {detail}")]
    Key { origin: String, key: String, detail: String },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub worker: Worker,
    pub network: Network,
    pub capabilities: Capabilities,
    pub location: Location,
    pub price: Prices,
    pub bidding: Bidding,
    pub limits: Limits,
    pub wasm: Wasm,
    pub inputs: freight::Inputs,
    pub outputs: freight::Outputs,
    pub log: Log,
    pub jobs: BTreeMap<String, Job>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Worker {
    pub data_dir: PathBuf,
    /// 0: as many as there are cores.
    pub max_parallel_jobs: u32,
    /// Empty: it is not paid on chain.
    pub payout_address: String,
    pub heartbeat_ms: u64,
    pub shutdown_grace_secs: u64,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            data_dir: "./data/worker".into(),
            max_parallel_jobs: 0,
            payout_address: String::new(),
            heartbeat_ms: 1_000,
            shutdown_grace_secs: 10,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    pub name: String,
    pub coordinators: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self { name: "ciro".to_owned(), coordinators: vec![] }
    }
}

/// 0 and absent: what this machine has, or none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    pub cpu_cores: u32,
    pub ram_mb: u64,
    /// False: graphics cards are not offered.
    pub use_gpus: bool,
    pub gpu_count: u32,
    pub gpu_model: String,
    pub gpu_memory_mb: u64,
    pub storage_gb: u64,
    pub network_bandwidth_mbps: u64,
    pub frameworks: Vec<String>,
    pub accelerators: Vec<String>,
    pub cuda_compute_capability: String,
    pub tee: Tee,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            cpu_cores: 0,
            ram_mb: 0,
            use_gpus: true,
            gpu_count: 0,
            gpu_model: String::new(),
            gpu_memory_mb: 0,
            storage_gb: 0,
            network_bandwidth_mbps: 0,
            frameworks: vec![],
            accelerators: vec![],
            cuda_compute_capability: String::new(),
            tee: Tee::None,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Location {
    pub region: String,
    pub country: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    pub default: Amount,
    pub per_second: Amount,
    pub per_gb: Amount,
    pub least: Amount,
    pub busy_percent: u32,
    pub assumed_secs: u32,
    pub by_type: BTreeMap<String, Amount>,
}

impl Default for Prices {
    fn default() -> Self {
        let none = Amount::default();
        let (per_second, per_gb, least) = (none, none, none);
        Self { default: none, per_second, per_gb, least, busy_percent: 0, assumed_secs: 10, by_type: BTreeMap::new() }
    }
}

/// A command that is asked before anything is bid.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bidding {
    /// Empty: none.
    pub command: Vec<String>,
    pub timeout_ms: u64,
    pub parallel: u32,
}

impl Default for Bidding {
    fn default() -> Self {
        Self { command: vec![], timeout_ms: 100, parallel: 2 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_input_bytes: u64,
    pub max_output_bytes: u64,
    pub max_run_secs: u32,
    pub refused_clients: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_input_bytes: 512 * 1024, max_output_bytes: 100 << 20, max_run_secs: 86_400, refused_clients: vec![] }
    }
}

/// For jobs with `builtin = "wasm"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wasm {
    pub max_memory_mb: u64,
    pub max_fuel: u64,
    pub cache_mb: u64,
}

impl Default for Wasm {
    fn default() -> Self {
        Self { max_memory_mb: 256, max_fuel: 100_000_000_000, cache_mb: 256 }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A server that answers jobs of one type.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub url: String,
    /// Of the payload.
    #[serde(default = "any_content")]
    pub content_type: String,
    /// Sent with every request; may hold secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

fn any_content() -> String {
    "application/octet-stream".to_owned()
}

/// How one type of job is run: `command`, `http` or `builtin`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Job {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Builtin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass_env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permanent_exit_codes: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run_secs: Option<u32>,
    /// Limits of each process of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_file_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_second: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_gb: Option<Amount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    Noop,
    Digest,
    /// A module that the payload brings.
    Wasm,
}

/// An amount, written as a decimal string or, if small, as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Amount(pub Price);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected an amount: digits in quotes, like \"1000\"")]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(amount) => Ok(Self(Price(amount.into()))),
            Written::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// The layers, merged, and where each key came from.
#[derive(Debug)]
pub struct Layered {
    pub file: File,
    origins: BTreeMap<String, String>,
    base: String,
}

impl Layered {
    /// Merges the file (or its stand-in), the environment and the flags.
    ///
    /// # Errors
    ///
    /// Naming the layer, the key, and what would be right.
    pub fn read(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Vec<Flag>,
    ) -> Result<Self, Error> {
        let (base, text) = match path {
            None => ("built-in example".to_owned(), EXAMPLE.to_owned()),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| Error::Read { path: path.to_owned(), source })?;
                (path.display().to_string(), text)
            }
        };
        let syntax = |error: toml::de::Error| Error::Syntax { origin: base.clone(), detail: error.to_string() };
        let mut table: Table = text.parse().map_err(syntax)?;
        let mut origins = BTreeMap::new();
        let usual = Table::try_from(File::default()).unwrap_or_default();
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix(ENV_PREFIX) {
                let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
                let value = spoken(&usual, &path, &value);
                set(&mut table, &mut origins, &name, path, value)?;
            }
        }
        for Flag { name, key, value } in flags {
            let path = key.split('.').map(str::to_owned).collect();
            set(&mut table, &mut origins, name, path, value)?;
        }
        let parsed: Result<File, _> = serde_path_to_error::deserialize(Value::Table(table));
        match parsed {
            Ok(file) => Ok(Self { file, origins, base }),
            Err(error) => {
                let (key, detail) = (error.path().to_string(), error.inner().message().trim().to_owned());
                let origin = origin_of(&origins, &base, &key, &detail);
                Err(Error::Key { origin, key, detail })
            }
        }
    }

    /// An error about a key whose value makes no sense.
    pub fn refuse(&self, key: impl Into<String>, detail: impl Into<String>) -> Error {
        let (key, detail) = (key.into(), detail.into());
        Error::Key { origin: origin_of(&self.origins, &self.base, &key, &detail), key, detail }
    }
}

/// A flag that stands for a key.
#[derive(Clone, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub key: &'static str,
    pub value: Value,
}

/// Sets `path` to `value`, and notes who did.
fn set(
    table: &mut Table,
    origins: &mut BTreeMap<String, String>,
    origin: &str,
    path: Vec<String>,
    value: Value,
) -> Result<(), Error> {
    let key = path.join(".");
    let refuse = |detail: &str| Error::Key { origin: origin.to_owned(), key: key.clone(), detail: detail.to_owned() };
    let Some((last, sections)) = path.split_last().filter(|(_, sections)| !sections.is_empty()) else {
        return Err(refuse("expected SECTION__KEY, like CIRO_WORKER__LOCATION__REGION"));
    };
    let mut at = table;
    for section in sections {
        let entry = at.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        at = entry.as_table_mut().ok_or_else(|| refuse("is below something that is not a section"))?;
    }
    at.insert(last.clone(), value);
    origins.insert(key, origin.to_owned());
    Ok(())
}

/// A variable's value. Where a text is usual it is one, also if it reads like a number: `0x1f` is an address.
fn spoken(usual: &Table, path: &[String], text: &str) -> Value {
    let value = guess(text);
    let usual = path.split_last().and_then(|(last, sections)| {
        sections.iter().try_fold(usual, |table, section| table.get(section)?.as_table())?.get(last)
    });
    if usual.is_some_and(Value::is_str) && !value.is_str() { Value::String(text.to_owned()) } else { value }
}

/// TOML if it is, text otherwise.
fn guess(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Who brought `key`. For an unknown key the path ends at its section, and the message names the key.
fn origin_of(origins: &BTreeMap<String, String>, base: &str, key: &str, detail: &str) -> String {
    let unknown = detail.split('`').nth(1).map(|field| format!("{key}.{field}"));
    let named = |key: &str| origins.get(key).cloned();
    let above = |key: &str| {
        let list = key.split_once('[').map_or(key, |(list, _)| list);
        named(list)
    };
    above(key).or_else(|| unknown.and_then(|key| named(&key))).unwrap_or_else(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<File, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker.toml");
        std::fs::write(&path, text).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let layered = Layered::read(Some(&path), environment, flags);
        layered.map(|layered| layered.file).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn flags_win_over_the_environment_over_the_file_over_defaults() {
        let text = "[location]\nregion = \"file\"\ncountry = \"file\"\n[network]\nname = \"file\"";
        let environment = [("CIRO_WORKER__LOCATION__REGION", "env"), ("CIRO_WORKER__LOCATION__COUNTRY", "env")];
        let flag = Flag { name: "--region", key: "location.region", value: Value::String("flag".to_owned()) };
        let file = read(text, &environment, vec![flag]).unwrap();
        assert_eq!((file.location.region.as_str(), file.location.country.as_str()), ("flag", "env"));
        assert_eq!((file.network.name.as_str(), file.worker.heartbeat_ms), ("file", 1_000));
        assert!(file.jobs.is_empty(), "a file says all there is to say of jobs");
    }

    #[test]
    fn without_a_file_the_example_stands_in() {
        let layered = Layered::read(None, [], vec![]).unwrap();
        let kinds: Vec<&str> = layered.file.jobs.keys().map(String::as_str).collect();
        assert_eq!(kinds, ["custom", "sha256", "sleep", "wordcount"]);
    }

    #[test]
    fn the_example_says_the_defaults() {
        let example = Layered::read(None, [], vec![]).unwrap().file;
        let bare = read("", &[], vec![]).unwrap();
        let without_jobs = File { jobs: BTreeMap::new(), ..example };
        assert_eq!(toml::to_string(&without_jobs).unwrap(), toml::to_string(&bare).unwrap());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_layer_that_brought_it() {
        let error = read("[worker]\ndatadir = 1", &[], vec![]).unwrap_err();
        assert!(error.starts_with("FILE: worker") && error.contains("data_dir"), "{error}");
        let error = read("", &[("CIRO_WORKER__WORKER__DATADIR", "x")], vec![]).unwrap_err();
        assert!(error.starts_with("CIRO_WORKER__WORKER__DATADIR: worker"), "{error}");
        let error = read("", &[("CIRO_WORKER__REGION", "x")], vec![]).unwrap_err();
        assert!(error.contains("SECTION__KEY"), "{error}");
    }

    #[test]
    fn a_bad_value_is_refused_with_what_would_be_right() {
        let error = read("[worker]\nheartbeat_ms = \"soon\"", &[], vec![]).unwrap_err();
        assert!(error.starts_with("FILE: worker.heartbeat_ms: ") && error.contains("u64"), "{error}");
        let error = read("[price]\ndefault = \"cheap\"", &[], vec![]).unwrap_err();
        assert!(error.starts_with("FILE: price.default: ") && error.contains("decimal"), "{error}");
        let error = read("", &[("CIRO_WORKER__LOG__FORMAT", "xml")], vec![]).unwrap_err();
        assert!(error.starts_with("CIRO_WORKER__LOG__FORMAT: log.format: ") && error.contains("`json`"), "{error}");
        assert!(read("[worker", &[], vec![]).unwrap_err().starts_with("FILE: not TOML"));
    }

    #[test]
    fn a_variable_is_text_where_a_text_is_usual() {
        for address in ["0x1f", "0xffffffffffffffff", "0x5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e", "\"0x1f\""] {
            let file = read("", &[("CIRO_WORKER__WORKER__PAYOUT_ADDRESS", address)], vec![]).unwrap();
            assert_eq!(file.worker.payout_address, address.trim_matches('"'));
        }
        let others = [("CIRO_WORKER__LOCATION__REGION", "7.5"), ("CIRO_WORKER__WORKER__HEARTBEAT_MS", "2000")];
        let file = read("", &others, vec![]).unwrap();
        assert_eq!((file.location.region.as_str(), file.worker.heartbeat_ms), ("7.5", 2_000));
    }

    #[test]
    fn amounts_may_be_text_or_numbers() {
        let file = read(
            "[price]\ndefault = 7\nby_type = { video = \"340282366920938463463374607431768211455\" }",
            &[],
            vec![],
        );
        let file = file.unwrap();
        assert_eq!((file.price.default.0, file.price.by_type["video"].0), (Price(7), Price(u128::MAX)));
        let file = read("", &[("CIRO_WORKER__PRICE__DEFAULT", "12")], vec![]).unwrap();
        assert_eq!(file.price.default.0, Price(12));
    }
}
