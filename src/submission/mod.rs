//! A submission as clients write it, and its way to a [`JobSpec`].
//!
//! Nothing here knows HTTP or Kafka's client: every door that takes submissions
//! uses it, so they are judged by the same rules and refused in the same words.
//! A submission is normalised (defaults filled in, GB to MB, addresses in one
//! spelling), so that two spellings of the same wish have the same fingerprint.
//!
//! Deliberately absent: whether the deadline has passed. That depends on the
//! clock and on whether the job is a repeat, so the door asks
//! [`Checked::deadline_ahead`] when it knows.

mod callback;
pub mod decode;
pub mod escalation;
mod input;
mod mapping;
pub mod record;
mod rejected;
mod schema;
pub mod settlement;
pub mod text;
mod weights;

use std::ops::RangeInclusive;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::chain::Terms;
use crate::domain::job::{Input, REDUNDANCY_MAX, Requirements, Retry};
use crate::domain::{Digest, JobSpec, Price, Timestamp};
pub use callback::Callbacks;
use decode::Int;
pub use input::InputDto;
pub use rejected::{Rejected, code};
pub use settlement::SettlementDto;
pub use weights::WeightsDto;

/// What a job type looks like, as a pattern and in words.
pub const NAME: &str = "^[a-z][a-z0-9_]{0,63}$";
pub const NAME_RULE: &str = "a lower-case letter, then at most 63 of a–z, 0–9 and _";

/// Most tags of a job, and frameworks or regions it may name.
const TAGS_MAX: usize = 16;
const NAMES_MAX: usize = 32;
/// Characters of a tag, framework or region.
const NAME_CHARS: usize = 64;

/// What a client asks for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"type": "sha256", "payload": "aGVsbG8=", "priority": 7, "tags": ["docs"]}))]
pub struct Submission {
    /// The job type; workers declare which they run.
    #[schema(pattern = "^[a-z][a-z0-9_]{0,63}$", example = "sha256")]
    pub r#type: String,
    /// The input's bytes in base64. Either this or `input`.
    #[schema(
        content_encoding = "base64",
        max_length = 349528,
        pattern = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        example = "aGVsbG8="
    )]
    pub payload: Option<String>,
    /// In place of `payload`: a reference that the worker fetches.
    #[serde(default, deserialize_with = "decode::object")]
    pub input: Option<InputDto>,
    /// 1 (last) to 10 (first).
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 10, default = 5)]
    pub priority: Option<Int>,
    /// The most the client will pay, in the smallest unit of the token; without it any price. No award is above it.
    #[schema(pattern = "^[0-9]{1,38}$", example = "1000000000000000000")]
    pub max_price: Option<String>,
    #[serde(default, deserialize_with = "decode::object")]
    pub price_escalation: Option<escalation::EscalationDto>,
    /// Must lie in the future. A job that is not done by then fails.
    #[schema(format = DateTime, example = "2999-01-01T00:00:00.000Z")]
    pub deadline: Option<String>,
    /// Longest run of one attempt.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 86400, default = 3600)]
    pub timeout_secs: Option<Int>,
    #[serde(default, deserialize_with = "decode::object")]
    pub requirements: Option<RequirementsDto>,
    /// How offers are weighed.
    #[schema(
        pattern = "^(balanced|best_match|lowest_cost|fastest_response|highest_reputation)$",
        default = "balanced"
    )]
    pub policy: Option<String>,
    #[serde(default, deserialize_with = "decode::object")]
    pub weights: Option<WeightsDto>,
    #[serde(default, deserialize_with = "decode::object")]
    pub retry: Option<RetryDto>,
    /// Workers that run the job independently; more than half of them must bring the same output. Each may cost
    /// up to `max_price`, and only those whose output is the job's are owed anything.
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 5, default = 1)]
    pub redundancy: Option<Int>,
    #[schema(schema_with = tags_schema)]
    pub tags: Option<Vec<String>>,
    /// The client's account on chain. For a settled job only where the cluster charges clients.
    #[schema(pattern = "^0x0?[0-7]?[0-9a-fA-F]{1,62}$", example = "0x1f")]
    pub client_address: Option<String>,
    /// Where the end of the job is posted to, http or https; see docs/callbacks.md. Without a user, a password or a
    /// fragment. It is not shown again.
    #[schema(max_length = 2000, pattern = "^https?://[!-~]+$", example = "https://example.org/hooks/ciro")]
    pub callback_url: Option<String>,
    #[schema(schema_with = settlement::schema)]
    pub settlement: Option<SettlementDto>,
}

/// What a worker must have. Zero and empty mean "do not care".
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RequirementsIn)]
pub struct RequirementsDto {
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 65536)]
    pub min_cpu_cores: Option<Int>,
    #[schema(minimum = 0, maximum = 1048576)]
    pub min_ram_gb: Option<f64>,
    #[schema(minimum = 0, maximum = 1048576)]
    pub min_gpu_memory_gb: Option<f64>,
    #[schema(schema_with = names_schema)]
    pub required_frameworks: Option<Vec<String>>,
    /// A wish: offers from elsewhere count as the farthest.
    #[schema(schema_with = names_schema)]
    pub preferred_regions: Option<Vec<String>>,
    /// Longest round trip between the leader and the worker, as the leader measures it.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 3600000)]
    pub max_network_latency_ms: Option<Int>,
    /// 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    pub max_worker_load: Option<f64>,
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1000)]
    pub min_reputation: Option<Int>,
}

/// When a failed attempt is tried again.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryIn)]
pub struct RetryDto {
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100, default = 3)]
    pub max_attempts: Option<Int>,
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 86400000, default = 5000)]
    pub initial_delay_ms: Option<Int>,
    #[schema(minimum = 1, maximum = 100, default = 2)]
    pub multiplier: Option<f64>,
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 86400000, default = 300000)]
    pub max_delay_ms: Option<Int>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub fault: Fault,
    pub field: &'static str,
    /// With the field's name, for people.
    pub detail: String,
    pub hint: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Invalid,
    Missing,
    TooLarge,
    NotAvailable,
}

/// What the door that a submission comes through holds it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Longest payload.
    pub inline_bytes: usize,
    /// `None`: there is no chain.
    pub settlement: Option<settlement::Defaults>,
    /// `None`: nobody is told of the end of a job.
    pub callbacks: Option<Callbacks>,
}

/// A door without a chain, and without callbacks.
impl From<usize> for Door {
    fn from(inline_bytes: usize) -> Self {
        Self { inline_bytes, settlement: None, callbacks: None }
    }
}

/// A submission whose every field is in range.
#[derive(Clone, Debug)]
pub struct Checked {
    pub spec: JobSpec,
    /// `None`: the input is a reference.
    pub payload: Option<Vec<u8>>,
    /// What it said itself where the spec may have a configured default.
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    max_price: Option<Price>,
    settlement: Option<Terms>,
}

impl Checked {
    /// Digest of the normalised submission: the same key with another body is a conflict. What is configured does
    /// not count, for a retry may come to a node that is configured otherwise.
    pub fn fingerprint(&self) -> Digest {
        // The spec holds the digest of the payload. A struct of plain fields always serialises.
        let digest = |spec: &JobSpec| Digest::of(&serde_json::to_vec(spec).unwrap_or_default());
        let Asked { max_price, settlement } = self.asked;
        if (self.spec.max_price, self.spec.settlement) == (max_price, settlement) {
            return digest(&self.spec);
        }
        digest(&JobSpec { max_price, settlement, ..self.spec.clone() })
    }

    /// # Errors
    ///
    /// The deadline is not after `now`.
    pub fn deadline_ahead(&self, now: Timestamp) -> Result<(), FieldError> {
        match self.spec.deadline {
            Some(deadline) if deadline <= now => {
                Err(invalid("deadline", format!("deadline must be in the future: {} is past", text::time(deadline))))
            }
            _ => Ok(()),
        }
    }

    /// `least`: what the contract takes no less than for a job; `None`: that is not known, or there is none.
    ///
    /// # Errors
    ///
    /// The job is settled on chain, and pays less.
    pub fn pays_enough(&self, least: Option<u128>) -> Result<(), FieldError> {
        settlement::enough(&self.spec, least)
    }
}

impl Submission {
    /// Checks every field and fills in the defaults.
    ///
    /// # Errors
    ///
    /// The first field that is missing, out of range, or asks for what is not available.
    pub fn check(self, door: impl Into<Door>) -> Result<Checked, FieldError> {
        let payload = self.payload.as_deref().map(from_base64);
        self.check_with(payload, door.into())
    }

    /// The same with the payload's bytes as they are: `payload` in base64 is not looked at.
    fn check_with(self, payload: Option<Result<Vec<u8>, FieldError>>, door: Door) -> Result<Checked, FieldError> {
        let settled = settlement::check(self.settlement, door.settlement.as_ref())?;
        if !is_name(&self.r#type) {
            return Err(invalid("type", format!("type must be {NAME_RULE}")));
        }
        let (input, payload) = given(self.input, payload, door.inline_bytes)?;
        let max_price = self.max_price.as_deref().map(|text| price("max_price", text)).transpose()?;
        let asked = Asked { max_price, settlement: settled.asked };
        let spec = JobSpec {
            kind: self.r#type,
            input,
            priority: small(integer("priority", self.priority, 1..=10, 5)?),
            max_price: settlement::ceiling(max_price, settled.terms, door.settlement.as_ref())?,
            price_escalation: escalation::check(self.price_escalation, max_price)?,
            deadline: self.deadline.as_deref().map(deadline).transpose()?,
            timeout_secs: small(integer("timeout_secs", self.timeout_secs, 1..=86_400, 3_600)?),
            requirements: requirements(self.requirements.unwrap_or_default())?.into(),
            policy: weights::policy(self.policy.as_deref())?,
            weights: weights::weights(self.weights)?,
            retry: retry(self.retry.unwrap_or_default())?.into(),
            redundancy: small(integer("redundancy", self.redundancy, 1..=REDUNDANCY_MAX.into(), 1)?),
            tags: names("tags", self.tags, TAGS_MAX)?,
            client_address: self.client_address.as_deref().map(address).transpose()?.map(String::into_boxed_str),
            callback_url: callback::check(self.callback_url.as_deref(), door.callbacks)?,
            settlement: settled.terms,
        };
        settlement::affordable(&spec, door.settlement.as_ref())?;
        Ok(Checked { spec, payload, asked })
    }
}

/// Whether text has the form of [`NAME`].
pub fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn unavailable(field: &'static str, detail: &str, hint: &'static str) -> FieldError {
    FieldError { fault: Fault::NotAvailable, field, detail: detail.to_owned(), hint: Some(hint) }
}

/// The input, and its bytes if they came along.
fn given(
    input: Option<InputDto>,
    bytes: Option<Result<Vec<u8>, FieldError>>,
    inline_bytes: usize,
) -> Result<(Input, Option<Vec<u8>>), FieldError> {
    match input {
        None => {
            let bytes = payload(bytes, inline_bytes)?;
            Ok((Input { sha256: Digest::of(&bytes), size: bytes.len() as u64, uri: None }, Some(bytes)))
        }
        Some(_) if bytes.is_some() => Err(invalid("input", "input must not be given together with payload".to_owned())),
        Some(input) => Ok((input.check()?, None)),
    }
}

fn payload(payload: Option<Result<Vec<u8>, FieldError>>, inline_bytes: usize) -> Result<Vec<u8>, FieldError> {
    let Some(bytes) = payload else {
        return Err(FieldError {
            fault: Fault::Missing,
            field: "payload",
            detail: "payload or input is required".to_owned(),
            hint: Some(
                "Send the input's bytes in base64 as payload (an empty input is the empty string), or a reference as input.",
            ),
        });
    };
    let bytes = bytes?;
    if bytes.len() > inline_bytes {
        let detail = format!("payload has {} bytes, the limit is {inline_bytes}", bytes.len());
        return Err(FieldError { fault: Fault::TooLarge, field: "payload", detail, hint: None });
    }
    Ok(bytes)
}

fn from_base64(text: &str) -> Result<Vec<u8>, FieldError> {
    text::parse_base64(text)
        .ok_or_else(|| invalid("payload", "payload must be base64 (standard alphabet, with padding)".to_owned()))
}

pub(crate) fn price(field: &'static str, text: &str) -> Result<Price, FieldError> {
    let refused = || invalid(field, format!("{field} must be a decimal string of at most 38 digits"));
    if text.len() > 38 {
        return Err(refused());
    }
    text.parse().map_err(|_| refused())
}

fn deadline(text: &str) -> Result<Timestamp, FieldError> {
    text::parse_time(text).ok_or_else(|| {
        invalid("deadline", "deadline must be a time in RFC 3339, such as 2030-01-31T12:00:00.000Z".to_owned())
    })
}

/// A felt in the range of addresses (below 2^251), in one spelling.
pub(crate) fn address(text: &str) -> Result<String, FieldError> {
    let refused =
        || invalid("client_address", "client_address must be 0x and hex digits of a number below 2^251".to_owned());
    let digits = text.strip_prefix("0x").ok_or_else(refused)?;
    if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    let digits = digits.trim_start_matches('0').to_ascii_lowercase();
    if digits.len() > 63 || (digits.len() == 63 && digits.as_str() >= "8") {
        return Err(refused());
    }
    Ok(if digits.is_empty() { "0x0".to_owned() } else { format!("0x{digits}") })
}

fn requirements(dto: RequirementsDto) -> Result<Requirements, FieldError> {
    let gb = 0.0..=1_048_576.0;
    let load = number("requirements.max_worker_load", dto.max_worker_load, 0.0..=1.0, 0.0)?;
    let latency = integer("requirements.max_network_latency_ms", dto.max_network_latency_ms, 0..=3_600_000, 0)?;
    Ok(Requirements {
        min_cpu_cores: small(integer("requirements.min_cpu_cores", dto.min_cpu_cores, 0..=65_536, 0)?),
        min_ram_mb: text::mb(number("requirements.min_ram_gb", dto.min_ram_gb, gb.clone(), 0.0)?),
        min_gpu_memory_mb: text::mb(number("requirements.min_gpu_memory_gb", dto.min_gpu_memory_gb, gb, 0.0)?),
        required_frameworks: names("requirements.required_frameworks", dto.required_frameworks, NAMES_MAX)?,
        preferred_regions: names("requirements.preferred_regions", dto.preferred_regions, NAMES_MAX)?,
        max_network_latency_ms: small(latency),
        max_worker_load_permille: permille(load),
        min_reputation: small(integer("requirements.min_reputation", dto.min_reputation, 0..=1_000, 0)?),
    })
}

fn retry(dto: RetryDto) -> Result<Retry, FieldError> {
    let usual = Retry::default();
    let day = 86_400_000;
    Ok(Retry {
        max_attempts: small(integer("retry.max_attempts", dto.max_attempts, 1..=100, u64::from(usual.max_attempts))?),
        initial_delay_ms: integer("retry.initial_delay_ms", dto.initial_delay_ms, 0..=day, usual.initial_delay_ms)?,
        multiplier_permille: permille(number(
            "retry.multiplier",
            dto.multiplier,
            1.0..=100.0,
            text::fraction(usual.multiplier_permille),
        )?),
        max_delay_ms: integer("retry.max_delay_ms", dto.max_delay_ms, 0..=day, usual.max_delay_ms)?,
    })
}

/// An integer in `range`, or `usual`.
pub(crate) fn integer(
    field: &'static str,
    value: Option<Int>,
    range: RangeInclusive<u64>,
    usual: u64,
) -> Result<u64, FieldError> {
    let Some(Int(value)) = value else { return Ok(usual) };
    match u64::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ if range.start() == range.end() => {
            Err(invalid(field, format!("{field} must be {}, not {value}", range.start())))
        }
        _ => Err(invalid(field, format!("{field} must be from {} to {}, not {value}", range.start(), range.end()))),
    }
}

/// A number in `range`, or `usual`.
pub(crate) fn number(
    field: &'static str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
    usual: f64,
) -> Result<f64, FieldError> {
    match value {
        None => Ok(usual),
        Some(value) if range.contains(&value) => Ok(value),
        Some(value) => {
            Err(invalid(field, format!("{field} must be from {} to {}, not {value}", range.start(), range.end())))
        }
    }
}

/// At most `most` short, non-empty strings.
pub(crate) fn names(field: &'static str, value: Option<Vec<String>>, most: usize) -> Result<Vec<String>, FieldError> {
    let names = value.unwrap_or_default();
    if names.len() > most {
        return Err(invalid(field, format!("{field} must have at most {most} items, not {}", names.len())));
    }
    for (index, name) in names.iter().enumerate() {
        let chars = name.chars().count();
        if chars == 0 || chars > NAME_CHARS {
            let detail = format!("{field}[{index}] must have from 1 to {NAME_CHARS} characters, not {chars}");
            return Err(invalid(field, detail));
        }
    }
    Ok(names)
}

pub(crate) fn invalid(field: &'static str, detail: String) -> FieldError {
    FieldError { fault: Fault::Invalid, field, detail, hint: None }
}

/// For values that a range check has bounded.
pub(crate) fn small<T: TryFrom<u64> + Default>(value: u64) -> T {
    T::try_from(value).unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range check bounds it")]
fn permille(value: f64) -> u32 {
    (value * 1_000.0).round() as u32
}

fn tags_schema() -> utoipa::openapi::schema::Array {
    names_of(TAGS_MAX)
}

pub(crate) fn names_schema() -> utoipa::openapi::schema::Array {
    names_of(NAMES_MAX)
}

fn names_of(most: usize) -> utoipa::openapi::schema::Array {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, SchemaType, Type};
    let name = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(NAME_CHARS));
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(name)
        .max_items(Some(most))
        .build()
}

#[cfg(test)]
mod tests;
