//! The configuration as used: typed, checked against this machine.

mod limits;
mod terms;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::appraiser::Rule;
use super::bidder::Terms;
use super::config::{self, Builtin, Layered, LogFormat};
use super::executor::{Action, Program, Recipe, Sandbox, Server};
use super::freight::Freight;
use super::gpu::Gpus;
use super::modules::Modules;
use super::{gpu, machine, wasm};
use crate::domain::PeerId;
use crate::domain::chain::Felt;
use crate::domain::worker::{Capabilities, Location};
use crate::wire;

/// How often leases and heartbeats are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Inputs come with an assignment, in one message of at most 1 MiB: this leaves room for the rest of it.
const INPUT_MAX: u64 = 1_000 * 1024;

/// Longest text that coordinators take from a worker, in bytes.
const TEXT_MAX: usize = 256;

/// Where commands look for programs, unless `env` says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All that a worker needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub network: String,
    /// Multiaddrs, each with the peer id it ends with.
    pub coordinators: Vec<(PeerId, String)>,
    pub capabilities: Capabilities,
    pub location: Location,
    pub terms: BTreeMap<String, Terms>,
    pub recipes: BTreeMap<String, Recipe>,
    /// Asked before anything is bid.
    pub appraisal: Option<Rule>,
    pub freight: Freight,
    pub heartbeat: Duration,
    /// How often leases and heartbeats are looked at.
    pub tick: Duration,
    pub shutdown_grace: Duration,
    /// Unregister when stopping.
    pub leave: bool,
    pub log_format: LogFormat,
}

impl Settings {
    /// Checks a configuration against itself and this machine.
    ///
    /// # Errors
    ///
    /// The first key that makes no sense, and what would.
    pub fn check(layered: &Layered) -> Result<Self, config::Error> {
        let file = &layered.file;
        range(layered, "worker.heartbeat_ms", file.worker.heartbeat_ms, 100..=2_000)?;
        range(layered, "worker.shutdown_grace_secs", file.worker.shutdown_grace_secs, 0..=3_600)?;
        let slots_max = u64::try_from(wire::RUNNING_MAX).unwrap_or(u64::MAX);
        range(layered, "worker.max_parallel_jobs", file.worker.max_parallel_jobs.into(), 0..=slots_max)?;
        check_network(layered, &file.network.name)?;
        let (terms, recipes) = jobs(layered)?;
        let freight = Freight::check(layered)?;
        Ok(Self {
            data_dir: file.worker.data_dir.clone(),
            network: file.network.name.clone(),
            coordinators: coordinators(layered)?,
            capabilities: Capabilities {
                input_schemes: freight.inputs.schemes.clone(),
                ..capabilities(layered, gpu::detect)?
            },
            location: location(layered)?,
            terms,
            recipes,
            appraisal: terms::appraisal(layered)?,
            freight,
            heartbeat: Duration::from_millis(file.worker.heartbeat_ms),
            tick: TICK,
            shutdown_grace: Duration::from_secs(file.worker.shutdown_grace_secs),
            leave: false,
            log_format: file.log.format,
        })
    }
}

pub(super) fn range(
    layered: &Layered,
    key: &str,
    value: u64,
    wanted: std::ops::RangeInclusive<u64>,
) -> Result<(), config::Error> {
    if wanted.contains(&value) {
        return Ok(());
    }
    Err(layered.refuse(key, format!("{value} is not between {} and {}", wanted.start(), wanted.end())))
}

/// The coordinators' own rule for `network.name`.
fn check_network(layered: &Layered, name: &str) -> Result<(), config::Error> {
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if plain && (1..=32).contains(&name.len()) {
        return Ok(());
    }
    let detail = format!("{name:?} cannot be: expected 1 to 32 lower-case letters, digits and hyphens");
    Err(layered.refuse("network.name", detail))
}

/// The coordinators' own rule for a job's type: nobody can submit a job of another.
fn check_type(layered: &Layered, kind: &str) -> Result<(), config::Error> {
    let plain = kind.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if plain && kind.starts_with(|first: char| first.is_ascii_lowercase()) && kind.len() <= 64 {
        return Ok(());
    }
    let detail = format!("{kind:?} is no job type: expected a lower-case letter, then at most 63 of a-z, 0-9 and _");
    Err(layered.refuse(format!("jobs.{kind}"), detail))
}

fn check_text(layered: &Layered, key: &str, text: &str) -> Result<(), config::Error> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(layered.refuse(key, format!("{} bytes: expected at most {TEXT_MAX}", text.len())))
}

fn coordinators(layered: &Layered) -> Result<Vec<(PeerId, String)>, config::Error> {
    let addresses = &layered.file.network.coordinators;
    if addresses.is_empty() {
        let detail =
            "none given: expected at least one, like \"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…\" (or --coordinator)";
        return Err(layered.refuse("network.coordinators", detail));
    }
    let parse = |address: &String| {
        let peer = parse_peer(address).ok_or_else(|| {
            let detail = format!("{address:?} is not an address of a coordinator: expected /ip4/…/tcp/…/p2p/12D3KooW…");
            layered.refuse("network.coordinators", detail)
        })?;
        Ok((peer, address.clone()))
    };
    addresses.iter().map(parse).collect()
}

/// The peer id a multiaddr ends with.
pub(super) fn parse_peer(address: &str) -> Option<PeerId> {
    let (transport, peer) = address.rsplit_once("/p2p/")?;
    if !transport.starts_with('/') { None } else { peer.parse().ok() }
}

fn capabilities(layered: &Layered, detect: impl FnOnce() -> Gpus) -> Result<Capabilities, config::Error> {
    let wanted = &layered.file.capabilities;
    let (cores, ram_mb) = (machine::cores(), machine::memory_mb());
    range(layered, "capabilities.cpu_cores", wanted.cpu_cores.into(), 0..=cores.into())?;
    range(layered, "capabilities.ram_mb", wanted.ram_mb, 0..=ram_mb)?;
    for (key, list) in [("frameworks", &wanted.frameworks), ("accelerators", &wanted.accelerators)] {
        if list.len() > 64 || list.iter().any(|text| text.is_empty() || text.len() > TEXT_MAX) {
            return Err(layered.refuse(format!("capabilities.{key}"), "expected at most 64 names of 1 to 256 bytes"));
        }
    }
    check_text(layered, "capabilities.gpu_model", &wanted.gpu_model)?;
    check_text(layered, "capabilities.cuda_compute_capability", &wanted.cuda_compute_capability)?;
    let storage_gb = machine::free_gb(&layered.file.worker.data_dir);
    range(layered, "capabilities.storage_gb", wanted.storage_gb, 0..=storage_gb)?;
    let gpus = gpus(layered, detect)?;
    let or = |given: u64, found: u64| if given == 0 { found } else { given };
    let cpu_cores = if wanted.cpu_cores == 0 { cores } else { wanted.cpu_cores };
    let slots = layered.file.worker.max_parallel_jobs;
    Ok(Capabilities {
        cpu_cores,
        ram_mb: or(wanted.ram_mb, ram_mb),
        gpu_count: gpus.count,
        gpu_model: gpus.model,
        gpu_memory_mb: gpus.memory_mb,
        storage_gb: or(wanted.storage_gb, storage_gb),
        network_bandwidth_mbps: wanted.network_bandwidth_mbps,
        job_types: layered.file.jobs.keys().cloned().collect(),
        frameworks: wanted.frameworks.clone(),
        accelerators: wanted.accelerators.clone(),
        max_parallel_jobs: if slots == 0 { cpu_cores } else { slots },
        cuda_compute_capability: gpus.compute_capability,
        tee: wanted.tee,
        input_schemes: vec![],
        payout_address: payout_address(layered)?,
    })
}

fn payout_address(layered: &Layered) -> Result<Option<Felt>, config::Error> {
    let refuse = |problem: &str| layered.refuse("worker.payout_address", problem);
    match layered.file.worker.payout_address.as_str() {
        "" => Ok(None),
        text => match text.parse() {
            Ok(Felt::ZERO) => Err(refuse("nobody can spend from account 0x0")),
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(refuse("expected an account on Starknet: 0x and 1 to 64 hex digits")),
        },
    }
}

/// What is offered of the cards that were found: less than there is, never more.
fn gpus(layered: &Layered, detect: impl FnOnce() -> Gpus) -> Result<Gpus, config::Error> {
    let wanted = &layered.file.capabilities;
    let found = if wanted.use_gpus { detect() } else { Gpus::default() };
    range(layered, "capabilities.gpu_count", wanted.gpu_count.into(), 0..=found.count.into())?;
    range(layered, "capabilities.gpu_memory_mb", wanted.gpu_memory_mb, 0..=found.memory_mb)?;
    let name = |key: &str, wanted: &String, found: String| match wanted.is_empty() {
        false if found.is_empty() => Err(layered.refuse(key, "no NVIDIA card was found, or its driver does not say")),
        false => Ok(wanted.clone()),
        true => Ok(found),
    };
    Ok(Gpus {
        count: if wanted.gpu_count == 0 { found.count } else { wanted.gpu_count },
        model: name("capabilities.gpu_model", &wanted.gpu_model, found.model)?,
        memory_mb: if wanted.gpu_memory_mb == 0 { found.memory_mb } else { wanted.gpu_memory_mb },
        compute_capability: name(
            "capabilities.cuda_compute_capability",
            &wanted.cuda_compute_capability,
            found.compute_capability,
        )?,
    })
}

fn location(layered: &Layered) -> Result<Location, config::Error> {
    let from = &layered.file.location;
    check_text(layered, "location.region", &from.region)?;
    check_text(layered, "location.country", &from.country)?;
    let micro = |key: &str, degrees: Option<f64>, most: f64| match degrees {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "at most 180 million")]
        Some(degrees) if degrees.abs() <= most => Ok(Some((degrees * 1e6).round() as i32)),
        Some(degrees) => Err(layered.refuse(key, format!("{degrees} is not between -{most} and {most} degrees"))),
    };
    Ok(Location {
        region: from.region.clone(),
        country: from.country.clone(),
        latitude_e6: micro("location.latitude", from.latitude, 90.0)?,
        longitude_e6: micro("location.longitude", from.longitude, 180.0)?,
    })
}

type Jobs = (BTreeMap<String, Terms>, BTreeMap<String, Recipe>);

fn jobs(layered: &Layered) -> Result<Jobs, config::Error> {
    let file = &layered.file;
    if file.jobs.is_empty() || file.jobs.len() > 64 {
        return Err(layered.refuse("jobs", "expected 1 to 64 job types, each a section like [jobs.sha256]"));
    }
    if let Some(kind) = file.price.by_type.keys().find(|kind| !file.jobs.contains_key(*kind)) {
        return Err(layered.refuse(format!("price.by_type.{kind}"), "no such section under [jobs]"));
    }
    // Also when no type runs modules: what is wrong is said now, not once one does.
    sandbox(layered)?;
    let refused_clients = terms::refused_clients(layered)?;
    let mut terms = BTreeMap::new();
    let mut recipes = BTreeMap::new();
    for (kind, job) in &file.jobs {
        check_type(layered, kind)?;
        let recipe = recipe(layered, kind, job)?;
        let price = file.price.by_type.get(kind).unwrap_or(&file.price.default).0;
        let max_run_secs = job.max_run_secs.unwrap_or(file.limits.max_run_secs);
        range(layered, &format!("jobs.{kind}.max_run_secs"), max_run_secs.into(), 1..=86_400)?;
        let rates = terms::rates(layered, job, &refused_clients)?;
        let (max_input_bytes, loads_input) = (recipe.max_input_bytes, recipe.action.loads_input());
        terms.insert(kind.clone(), Terms { price, rates, max_input_bytes, loads_input, max_run_secs });
        recipes.insert(kind.clone(), recipe);
    }
    Ok((terms, recipes))
}

fn recipe(layered: &Layered, kind: &str, job: &config::Job) -> Result<Recipe, config::Error> {
    let limits = &layered.file.limits;
    let max_input_bytes = job.max_input_bytes.unwrap_or(limits.max_input_bytes);
    let max_output_bytes = job.max_output_bytes.unwrap_or(limits.max_output_bytes);
    range(layered, &format!("jobs.{kind}.max_input_bytes"), max_input_bytes, 0..=INPUT_MAX)?;
    range(layered, &format!("jobs.{kind}.max_output_bytes"), max_output_bytes, 0..=layered.file.outputs.store_bytes)?;
    let action = match (job.builtin, &job.http, job.command.split_first()) {
        (Some(Builtin::Noop), None, None) => Action::Noop,
        (Some(Builtin::Digest), None, None) => Action::Digest,
        (Some(Builtin::Wasm), None, None) => Action::Wasm(sandbox(layered)?),
        (None, Some(http), None) => Action::Http(server(layered, kind, http)?),
        (None, None, Some((name, arguments))) => Action::Command(program(layered, kind, job, name, arguments)?),
        _ => {
            let detail = "expected either command = [\"program\", …], http = { url = \"…\" } or builtin";
            return Err(layered.refuse(format!("jobs.{kind}"), detail));
        }
    };
    Ok(Recipe { action, max_input_bytes, max_output_bytes })
}

fn server(layered: &Layered, kind: &str, http: &config::Http) -> Result<Server, config::Error> {
    Server::new(&http.url, &http.content_type, &http.headers)
        .map_err(|(field, detail)| layered.refuse(format!("jobs.{kind}.http.{field}"), detail))
}

fn sandbox(layered: &Layered) -> Result<Sandbox, config::Error> {
    let file = &layered.file;
    range(layered, "wasm.max_memory_mb", file.wasm.max_memory_mb, 1..=4_096)?;
    range(layered, "wasm.max_fuel", file.wasm.max_fuel, 1..=i64::MAX.unsigned_abs())?;
    range(layered, "wasm.cache_mb", file.wasm.cache_mb, 0..=1_048_576)?;
    Ok(Sandbox {
        runner: wasm::runner().to_owned(),
        memory_bytes: file.wasm.max_memory_mb << 20,
        fuel: file.wasm.max_fuel,
        modules: Modules::new(file.worker.data_dir.join("modules"), file.wasm.cache_mb << 20),
    })
}

fn program(
    layered: &Layered,
    kind: &str,
    job: &config::Job,
    name: &str,
    arguments: &[String],
) -> Result<Program, config::Error> {
    let mut environment =
        BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
    for name in &job.pass_env {
        if let Ok(value) = std::env::var(name) {
            environment.insert(name.clone(), value);
        }
    }
    environment.extend(job.env.clone());
    let path = environment.get("PATH").map_or(PATH, String::as_str);
    let Some(path) = find(name, path) else {
        let detail =
            format!("program {name:?} was not found in {path}: expected one that is installed, or its full path");
        return Err(layered.refuse(format!("jobs.{kind}.command"), detail));
    };
    let permanent_exit_codes = job.permanent_exit_codes.clone();
    let (path, arguments) = limits::wrapped(layered, kind, job, path, arguments)?;
    Ok(Program { path, arguments, environment, permanent_exit_codes })
}

/// The full path of a program.
fn find(name: &str, path: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;

    let runs = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        // The command's working directory is not ours.
        return std::path::absolute(name).ok().filter(|path| runs(path));
    }
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| runs(path))
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::*;
    use crate::worker::config::Flag;

    const PEER: &str = "12D3KooWAbcLAWuXmArdBZJkAMBKhsKPv8LbgmJd7Ey7a5yyf3pc";

    fn check(flags: Vec<(&'static str, Value)>) -> Result<Settings, String> {
        let peer = PeerId([9; 32]);
        let address = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer}");
        let mut all = vec![("network.coordinators", Value::Array(vec![Value::String(address)]))];
        all.extend(flags);
        let flags = all.into_iter().map(|(key, value)| Flag { name: "--flag", key, value }).collect();
        let layered = Layered::read(None, [], flags).map_err(|error| error.to_string())?;
        Settings::check(&layered).map_err(|error| error.to_string())
    }

    fn text(value: &str) -> Value {
        Value::String(value.to_owned())
    }

    #[test]
    fn the_example_with_a_coordinator_is_all_one_needs() {
        let settings = check(vec![]).unwrap();
        assert_eq!(settings.coordinators[0].0, PeerId([9; 32]));
        assert_eq!(settings.capabilities.cpu_cores, machine::cores());
        assert_eq!(settings.capabilities.max_parallel_jobs, machine::cores());
        assert!(settings.capabilities.ram_mb > 0);
        assert!(matches!(settings.recipes["sha256"].action, Action::Command(_)));
    }

    #[test]
    fn an_operator_may_offer_less_than_there_is_but_not_more() {
        let less = check(vec![("capabilities.ram_mb", Value::Integer(64))]).unwrap();
        assert_eq!(less.capabilities.ram_mb, 64);
        let error = check(vec![("capabilities.cpu_cores", Value::Integer(100_000))]).unwrap_err();
        assert!(error.starts_with("--flag: capabilities.cpu_cores: 100000 is not between 0 and "), "{error}");
    }

    #[test]
    fn cards_are_found_and_may_be_offered_in_part_but_no_others() {
        let found = || Gpus {
            count: 2,
            model: "NVIDIA A10".to_owned(),
            memory_mb: 23_028,
            compute_capability: "8.6".to_owned(),
        };
        let offered = |text: &str, found: Gpus| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("worker.toml");
            std::fs::write(&path, format!("[capabilities]\n{text}")).unwrap();
            let layered = Layered::read(Some(&path), [], vec![]).unwrap();
            capabilities(&layered, || found).map_err(|error| error.to_string())
        };
        let all = offered("", found()).unwrap();
        assert_eq!((all.gpu_count, all.gpu_model.as_str(), all.gpu_memory_mb), (2, "NVIDIA A10", 23_028));
        let less = offered("gpu_count = 1\ngpu_memory_mb = 8000", found()).unwrap();
        assert_eq!((less.gpu_count, less.gpu_memory_mb, less.cuda_compute_capability.as_str()), (1, 8_000, "8.6"));
        let none = offered("use_gpus = false", found()).unwrap();
        assert_eq!((none.gpu_count, none.gpu_model.as_str(), none.gpu_memory_mb), (0, "", 0));
        for more in ["gpu_count = 3", "gpu_memory_mb = 24000"] {
            let error = offered(more, found()).unwrap_err();
            assert!(error.contains(": capabilities.gpu_") && error.contains("is not between 0 and"), "{error}");
        }
        let error = offered("gpu_model = \"H100\"", Gpus::default()).unwrap_err();
        assert!(error.contains("no NVIDIA card was found"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_key() {
        let jobs = |job: &str| ("jobs.mine", Value::Table(job.parse().unwrap()));
        let cases = [
            (("network.coordinators", Value::Array(vec![])), "none given"),
            (("network.coordinators", Value::Array(vec![text("/ip4/127.0.0.1/tcp/1")])), "not an address"),
            (("network.coordinators", Value::Array(vec![text(&format!("{PEER}/p2p/{PEER}"))])), "not an address"),
            (("network.name", text("no_such")), "letters, digits and hyphens"),
            (("worker.payout_address", text("me")), "expected an account on Starknet"),
            (("worker.payout_address", text("0x0")), "nobody can spend"),
            (("network.name", text(&"n".repeat(33))), "1 to 32"),
            (("jobs.two-words", Value::Table("builtin = \"noop\"".parse().unwrap())), "is no job type"),
            (("jobs.2d", Value::Table("builtin = \"noop\"".parse().unwrap())), "is no job type"),
            (("capabilities.gpu_model", text(&"x".repeat(257))), "257 bytes"),
            (("capabilities.gpu_count", Value::Integer(9_999)), "is not between 0 and"),
            (("location.region", text(&"x".repeat(257))), "257 bytes"),
            (jobs("builtin = \"noop\"\nmax_input_bytes = 1048576"), "not between 0 and 1024000"),
            (("worker.heartbeat_ms", Value::Integer(1)), "not between 100 and 2000"),
            (("location.latitude", Value::Float(91.0)), "not between -90 and 90"),
            (("price.by_type.unknown", text("1")), "no such section"),
            (jobs("command = [\"no-such-program\"]"), "was not found"),
            (("wasm.max_memory_mb", Value::Integer(0)), "not between 1 and 4096"),
            (("price.busy_percent", Value::Integer(10_001)), "not between 0 and 10000"),
            (("limits.refused_clients", Value::Array(vec![text("me")])), "0x and hex digits"),
            (("bidding.command", Value::Array(vec![text("no-such-program")])), "was not found"),
            (("bidding.timeout_ms", Value::Integer(0)), "not between 10 and 10000"),
            (jobs("http = { url = \"file:///etc/passwd\" }"), "no http:// or https:// URL"),
            (jobs("builtin = \"noop\"\ncommand = [\"true\"]"), "expected either"),
            (jobs(""), "expected either"),
            (jobs("builtin = \"noop\"\nmax_output_bytes = 99999999999"), "not between"),
            (("inputs.schemes", Value::Array(vec![text("ftp")])), "cannot be fetched"),
            (("inputs.schemes", Value::Array(vec![text("file")])), "at least one directory"),
            (("inputs.file_roots", Value::Array(vec![text("/tmp")])), "of no use"),
            (("inputs.cache_bytes", Value::Integer(1)), "not between 104857600 and"),
            (("outputs.inline_bytes", Value::Integer(524_289)), "not between 0 and 524288"),
            (("outputs.keep_hours", Value::Integer(0)), "not between 1 and"),
        ];
        for ((key, value), expected) in cases {
            let error = check(vec![(key, value)]).unwrap_err();
            assert!(error.starts_with("--flag: ") || error.contains(": jobs."), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
