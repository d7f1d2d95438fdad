//! Commands that no honest door lets through.
//!
//! Doors check what users send and explain it field by field. This is the last
//! line: whatever reaches the log by whatever way, the state stays within what
//! it can hold. Bounds here are wider than those of the doors.
//!
//! Absent: everything that needs the state to decide.

use super::auction::{SEALED_MAX, Sealed};
use super::callback::Called;
use super::chain::{Act, CALLS_MAX, Call, FELTS_MAX};
use super::command::{Command, Complete, Fail, Submit};
use super::ids::Digest;
use super::job::{JobSpec, REDUNDANCY_MAX, Requirements, Retry};
use super::kafka::{Ingest, LETTER_BYTES, Letter, Partition, Taken};
use super::member;
use super::score::WEIGHT_MAX;
use super::worker::{Capabilities, Location};

/// Longest job type, framework, region, tag, error code.
const NAME_MAX: usize = 256;
/// Longest address of anything.
const ADDRESS_MAX: usize = 2 << 10;
/// Longest free text. What the state keeps of it is shorter.
const TEXT_MAX: usize = 1 << 20;
/// Most items in a list.
const LIST_MAX: usize = 256;
/// Bytes of an inline input or output.
const INLINE_MAX: usize = 16 << 20;
/// Bytes of an output that its worker keeps.
const KEPT_MAX: u64 = 1 << 40;
/// Records in one batch of intake.
const ITEMS_MAX: usize = 10_000;
/// Kafka's offsets are signed 64-bit numbers.
const OFFSET_MAX: u64 = i64::MAX as u64;
const SIGNATURE_MAX: usize = 128;
const TIMEOUT_MAX_SECS: u32 = 86_400;
const LEASE_MAX_MS: u64 = 7 * 86_400_000;
const DELAY_MAX_MS: u64 = 30 * 86_400_000;
const ATTEMPTS_MAX: u32 = 1_000;
const PARALLEL_MAX: u32 = 100_000;

type Verdict = Result<(), String>;

/// Says what is absurd about a command.
pub(super) fn command(command: &Command) -> Verdict {
    match command {
        Command::Submit(submit) => self::submit(submit),
        Command::Cancel { reason, .. } => text("reason", reason, TEXT_MAX),
        Command::RegisterWorker { capabilities, location, version, .. } => {
            text("version", version, NAME_MAX)?;
            self::location(location)?;
            self::capabilities(capabilities)
        }
        Command::Assign { attempt, lease_ms, evidence, .. } => {
            range("attempt", u64::from(*attempt), 1, u64::from(u32::MAX - 1))?;
            range("evidence", evidence.as_ref().map_or(0, Sealed::len) as u64, 0, SEALED_MAX as u64)?;
            range("lease_ms", *lease_ms, 1, LEASE_MAX_MS)
        }
        Command::Renew { lease_ms, .. } => range("lease_ms", *lease_ms, 1, LEASE_MAX_MS),
        Command::Complete(complete) => self::complete(complete),
        Command::Fail(fail) => self::fail(fail),
        Command::Ingest(ingest) => self::ingest(ingest),
        Command::SeekIntake { partition, next } => {
            self::partition(partition)?;
            range("next", *next, 0, OFFSET_MAX)
        }
        Command::ResetIntake { cluster } => name("cluster", cluster),
        Command::Chain(act) => self::chain(act),
        Command::CalledBack { called: Called::GivenUp { code, .. }, .. } => name("code", code),
        Command::Member(act) => member(act),
        Command::CalledBack { .. }
        | Command::Retain(_)
        | Command::ReplayLetter { .. }
        | Command::DropLetter { .. }
        | Command::ForgetSink { .. }
        | Command::UnregisterWorker { .. }
        | Command::Drain { .. }
        | Command::Resume { .. }
        | Command::SetVerdict { .. }
        | Command::Started { .. }
        | Command::Expire { .. }
        | Command::Decline { .. }
        | Command::PassDeadline { .. }
        | Command::Retry { .. }
        | Command::RaiseLevel { .. }
        | Command::Delivered { .. } => Ok(()),
        #[cfg(any(test, debug_assertions))]
        Command::Trial { .. } => Ok(()),
    }
}

/// Says what is absurd about a batch as such. Its jobs are checked one by one as they are taken.
fn ingest(ingest: &Ingest) -> Verdict {
    name("cluster", &ingest.cluster)?;
    partition(&ingest.partition)?;
    range("next", ingest.next, 0, OFFSET_MAX)?;
    ensure(ingest.items.len() <= ITEMS_MAX, || format!("{} items, at most {ITEMS_MAX}", ingest.items.len()))?;
    ensure(ingest.items.is_sorted_by(|a, b| a.offset < b.offset), || "offsets do not ascend".to_owned())?;
    ensure(ingest.items.last().is_none_or(|item| item.offset < ingest.next), || {
        "next is not behind the last item".to_owned()
    })?;
    ingest.items.iter().try_for_each(|item| match &item.taken {
        Taken::Job(_) => Ok(()),
        Taken::Letter(letter) => self::letter(letter),
    })
}

fn chain(act: &Act) -> Verdict {
    match act {
        Act::Prepare { transaction, .. } => {
            let (calls, felts) = (transaction.calls().count(), felts(transaction.calls()));
            ensure(calls <= CALLS_MAX, || format!("{calls} calls, at most {CALLS_MAX}"))?;
            ensure(FELTS_MAX >= felts, || format!("{felts} felts of calldata, at most {FELTS_MAX}"))?;
            ensure(!transaction.items.is_empty(), || "a transaction without items".to_owned())
        }
        Act::Landed { landed, .. } => {
            text("reverted", landed.reverted.as_deref().unwrap_or_default(), TEXT_MAX)?;
            ensure(landed.ids.len() <= CALLS_MAX, || format!("{} ids, at most {CALLS_MAX}", landed.ids.len()))
        }
        Act::Park { parked, .. } => {
            ensure(parked.len() <= CALLS_MAX, || format!("{} items, at most {CALLS_MAX}", parked.len()))?;
            parked.iter().try_for_each(|(item, code, reason)| {
                name("code", code)?;
                text("reason", reason, TEXT_MAX)?;
                let felts = felts(&item.calls);
                ensure(item.calls.len() <= CALLS_MAX && felts <= FELTS_MAX, || {
                    format!("{} calls and {felts} felts in an item", item.calls.len())
                })
            })
        }
        Act::Followed { arrivals, payments, .. } => {
            let events = arrivals.len() + payments.len();
            ensure(events <= ITEMS_MAX, || format!("{events} events, at most {ITEMS_MAX}"))
        }
        _ => Ok(()),
    }
}

/// Of calldata.
fn felts<'a>(calls: impl IntoIterator<Item = &'a Call>) -> usize {
    calls.into_iter().map(|call| call.calldata.len()).sum()
}

fn letter(letter: &Letter) -> Verdict {
    partition(&letter.partition)?;
    text("code", &letter.code, NAME_MAX)?;
    ensure(letter.size() <= LETTER_BYTES + TEXT_MAX, || format!("a letter of {} bytes", letter.size()))
}

fn partition(partition: &Partition) -> Verdict {
    name("topic", &partition.topic)
}

fn name(field: &str, value: &str) -> Verdict {
    ensure(!value.is_empty(), || format!("{field} is empty"))?;
    text(field, value, NAME_MAX)
}

/// Says what is absurd about a submission.
pub(super) fn submit(submit: &Submit) -> Verdict {
    spec(&submit.spec)?;
    let input = &submit.spec.input;
    let Some(payload) = &submit.payload else {
        return ensure(input.uri.is_some() || input.size == 0, || "input has neither bytes nor a uri".to_owned());
    };
    ensure(input.uri.is_none(), || "input has both bytes and a uri".to_owned())?;
    let size = payload.len();
    ensure(size <= INLINE_MAX, || format!("payload of {size} bytes is over the limit of {INLINE_MAX}"))?;
    ensure(u64::try_from(size).is_ok_and(|size| size == input.size), || "input size is not the payload's".to_owned())?;
    ensure(Digest::of(payload) == input.sha256, || "input sha256 is not the payload's".to_owned())
}

fn spec(spec: &JobSpec) -> Verdict {
    identifier("type", &spec.kind)?;
    range("priority", spec.priority.into(), 1, 10)?;
    range("timeout_secs", spec.timeout_secs.into(), 1, TIMEOUT_MAX_SECS.into())?;
    range("redundancy", spec.redundancy.into(), 1, REDUNDANCY_MAX.into())?;
    list("tags", &spec.tags)?;
    let addresses =
        [("uri", &spec.input.uri), ("client_address", &spec.client_address), ("callback_url", &spec.callback_url)];
    for (name, address) in addresses {
        text(name, address.as_deref().unwrap_or_default(), ADDRESS_MAX)?;
    }
    requirements(&spec.requirements)?;
    spec.price_escalation.map_or(Ok(()), |escalation| escalation.check(spec.max_price))?;
    ensure(spec.weights.is_none_or(|weights| weights.are_sane()), || {
        format!("weights are not all from 0 to {WEIGHT_MAX}, or all 0")
    })?;
    retry(&spec.retry)
}

fn requirements(requirements: &Requirements) -> Verdict {
    list("required_frameworks", &requirements.required_frameworks)?;
    list("preferred_regions", &requirements.preferred_regions)?;
    range("max_worker_load", requirements.max_worker_load_permille.into(), 0, 1_000)?;
    range("min_reputation", requirements.min_reputation.into(), 0, 1_000)
}

fn retry(retry: &Retry) -> Verdict {
    range("max_attempts", retry.max_attempts.into(), 1, ATTEMPTS_MAX.into())?;
    range("initial_delay_ms", retry.initial_delay_ms, 0, DELAY_MAX_MS)?;
    range("max_delay_ms", retry.max_delay_ms, 0, DELAY_MAX_MS)
}

fn location(location: &Location) -> Verdict {
    text("region", &location.region, NAME_MAX)?;
    text("country", &location.country, NAME_MAX)?;
    let within = |degrees: Option<i32>, most: u32| degrees.is_none_or(|e6| e6.unsigned_abs() <= most * 1_000_000);
    ensure(within(location.latitude_e6, 90), || "latitude is not from -90 to 90".to_owned())?;
    ensure(within(location.longitude_e6, 180), || "longitude is not from -180 to 180".to_owned())
}

fn capabilities(capabilities: &Capabilities) -> Verdict {
    list("job_types", &capabilities.job_types)?;
    capabilities.job_types.iter().try_for_each(|kind| identifier("job_types", kind))?;
    list("frameworks", &capabilities.frameworks)?;
    list("accelerators", &capabilities.accelerators)?;
    list("input_schemes", &capabilities.input_schemes)?;
    text("gpu_model", &capabilities.gpu_model, NAME_MAX)?;
    text("cuda_compute_capability", &capabilities.cuda_compute_capability, NAME_MAX)?;
    range("max_parallel_jobs", capabilities.max_parallel_jobs.into(), 1, PARALLEL_MAX.into())
}

/// The digest is compared only when the result is accepted: repeats are answered without reading the output again.
/// An address is a hint, and read as a multiaddr by whoever dials it.
fn member(act: &member::Act) -> Verdict {
    match act {
        member::Act::Invite { ttl_ms, .. } => range("ttl_ms", *ttl_ms, 1, member::TTL_MAX_MS),
        member::Act::Redeem { address, .. } | member::Act::Add { address, .. } | member::Act::Moved { address, .. } => {
            text("address", address, member::ADDRESS_MAX)
        }
        _ => Ok(()),
    }
}

fn complete(complete: &Complete) -> Verdict {
    ensure(complete.kept_size == 0 || complete.output.is_empty(), || {
        "an output is both here and kept by its worker".to_owned()
    })?;
    range("kept_size", complete.kept_size, 0, KEPT_MAX)?;
    let size = complete.output.len();
    ensure(size <= INLINE_MAX, || format!("output of {size} bytes is over the limit of {INLINE_MAX}"))?;
    let size = complete.signature.len();
    ensure(size <= SIGNATURE_MAX, || format!("signature of {size} bytes is over the limit of {SIGNATURE_MAX}"))
}

fn fail(fail: &Fail) -> Verdict {
    identifier("code", &fail.code)?;
    text("detail", &fail.detail, TEXT_MAX)
}

/// A lower-case identifier: a letter, then letters, digits, `_`, `-`, `.`.
fn identifier(name: &str, value: &str) -> Verdict {
    text(name, value, NAME_MAX)?;
    let letter_first = value.starts_with(|c: char| c.is_ascii_lowercase());
    let rest_fine = value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c));
    ensure(letter_first && rest_fine, || format!("{name} is not a lower-case identifier"))
}

fn list(name: &str, items: &[String]) -> Verdict {
    ensure(items.len() <= LIST_MAX, || format!("{name} has {} items, the most is {LIST_MAX}", items.len()))?;
    items.iter().try_for_each(|item| text(name, item, NAME_MAX))
}

fn text(name: &str, value: &str, most: usize) -> Verdict {
    ensure(value.len() <= most, || format!("{name} is {} bytes long, the most is {most}", value.len()))
}

fn range(name: &str, value: u64, least: u64, most: u64) -> Verdict {
    ensure((least..=most).contains(&value), || format!("{name} must be from {least} to {most}, not {value}"))
}

fn ensure(fine: bool, what: impl FnOnce() -> String) -> Verdict {
    if fine { Ok(()) } else { Err(what()) }
}
