//! Whether a worker can do a job.
//!
//! One question with two answers: [`misfits`] names each requirement that is
//! not met, with what was wanted and what is offered; [`fits`] only says whether
//! there are any, for looking at many jobs times many workers.
//!
//! What a worker is, it declared; how it does right now ([`Live`]), it said in a
//! bid or was measured. Without the latter only the former is judged.
//!
//! Absent: `preferred_regions` is a wish, not a requirement. It counts in the
//! score of an offer.

use sha2::{Digest as _, Sha256};

use super::job::JobSpec;
use super::reputation::FLOOR;
use super::worker::Worker;

/// A requirement that a worker does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub requirement: &'static str,
    pub wanted: String,
    pub offered: String,
}

/// How a worker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub load_permille: u32,
    /// Round trip to who asks; `None`: not measured, which meets no bound on it.
    pub rtt_us: Option<u32>,
}

/// What `worker` lacks for `spec`; empty means it fits.
///
/// Requirements are named as the REST contract names them; `type` is the job type, `input` the scheme of its reference.
pub fn misfits(spec: &JobSpec, worker: &Worker, live: Option<Live>) -> Vec<Misfit> {
    let has = &worker.capabilities;
    let misfit = |requirement, wanted, offered: String| {
        let offered = if offered.is_empty() { "none".to_owned() } else { offered };
        Misfit { requirement, wanted, offered }
    };
    let mut lacking = Vec::new();
    if !has.job_types.contains(&spec.kind) {
        lacking.push(misfit("type", spec.kind.clone(), has.job_types.join(", ")));
    }
    if let Some(scheme) = unfetchable(spec, worker) {
        let wanted = format!("fetches {scheme} references");
        lacking.push(misfit("input", wanted, has.input_schemes.join(", ")));
    }
    for Shortage { requirement, wanted, offered, unit } in shortages(spec, worker) {
        lacking.push(misfit(requirement, format!("at least {wanted}{unit}"), format!("{offered}{unit}")));
    }
    let missing: Vec<&str> = missing_frameworks(spec, worker).collect();
    if !missing.is_empty() {
        lacking.push(misfit("required_frameworks", missing.join(", "), has.frameworks.join(", ")));
    }
    if let Some(load) = live.filter(|live| overloaded(spec, live)).map(|live| live.load_permille) {
        let most = spec.requirements.max_worker_load_permille;
        lacking.push(misfit("max_worker_load", permille(most), permille(load)));
    }
    if let Some(rtt) = live.filter(|live| too_far(spec, live)).map(|live| live.rtt_us) {
        let most = spec.requirements.max_network_latency_ms;
        let measured = rtt.map_or_else(|| "not measured".to_owned(), |us| format!("{} ms", us.div_ceil(1_000)));
        lacking.push(misfit("max_network_latency_ms", format!("at most {most} ms"), measured));
    }
    lacking
}

/// Whether [`misfits`] is empty, without a word about it.
pub fn fits(spec: &JobSpec, worker: &Worker, live: Option<Live>) -> bool {
    worker.capabilities.job_types.contains(&spec.kind)
        && unfetchable(spec, worker).is_none()
        && shortages(spec, worker).next().is_none()
        && missing_frameworks(spec, worker).next().is_none()
        && live.is_none_or(|live| !overloaded(spec, &live) && !too_far(spec, &live))
}

/// A digest of all that [`fits`] reads of a job: jobs of one class fit the same workers.
pub type Class = u64;

/// See [`Class`]. What [`fits`] comes to read must be taken in here.
pub fn class(spec: &JobSpec) -> Class {
    let needs = &spec.requirements;
    let numbers = [
        needs.min_cpu_cores.into(),
        needs.min_ram_mb,
        needs.min_gpu_memory_mb,
        needs.max_network_latency_ms.into(),
        needs.max_worker_load_permille.into(),
        needs.min_reputation.into(),
    ];
    let mut hash = Sha256::new();
    numbers.iter().for_each(|number: &u64| hash.update(number.to_be_bytes()));
    let kind = [spec.kind.as_str(), spec.input.scheme().unwrap_or_default()];
    for text in kind.into_iter().chain(needs.required_frameworks.iter().map(String::as_str)) {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The scheme of the job's input, if the worker does not fetch such.
fn unfetchable<'a>(spec: &'a JobSpec, worker: &Worker) -> Option<&'a str> {
    spec.input.scheme().filter(|scheme| !worker.capabilities.input_schemes.iter().any(|known| known == scheme))
}

struct Shortage {
    requirement: &'static str,
    wanted: u64,
    offered: u64,
    unit: &'static str,
}

fn shortages(spec: &JobSpec, worker: &Worker) -> impl Iterator<Item = Shortage> {
    let (needs, has) = (&spec.requirements, &worker.capabilities);
    let amounts = [
        ("min_cpu_cores", needs.min_cpu_cores.into(), has.cpu_cores.into(), ""),
        ("min_ram_gb", needs.min_ram_mb, has.ram_mb, " MB"),
        ("min_gpu_memory_gb", needs.min_gpu_memory_mb, has.gpu_memory_mb, " MB"),
        ("min_reputation", needs.min_reputation.max(FLOOR).into(), worker.reputation.into(), ""),
    ];
    let short = amounts.into_iter().filter(|(_, wanted, offered, _)| offered < wanted);
    short.map(|(requirement, wanted, offered, unit)| Shortage { requirement, wanted, offered, unit })
}

fn missing_frameworks<'a>(spec: &'a JobSpec, worker: &'a Worker) -> impl Iterator<Item = &'a str> {
    let missing = |name: &&String| !worker.capabilities.frameworks.contains(*name);
    spec.requirements.required_frameworks.iter().filter(missing).map(String::as_str)
}

fn overloaded(spec: &JobSpec, live: &Live) -> bool {
    let most = spec.requirements.max_worker_load_permille;
    most > 0 && live.load_permille > most
}

fn too_far(spec: &JobSpec, live: &Live) -> bool {
    let most = spec.requirements.max_network_latency_ms;
    most > 0 && live.rtt_us.is_none_or(|us| u64::from(us) > u64::from(most) * 1_000)
}

fn permille(value: u32) -> String {
    format!("{}.{:03}", value / 1_000, value % 1_000)
}
