//! From a record to what the log is told of it: a job, or a letter.

use crate::domain::command::Submit;
use crate::domain::job::Source;
use crate::domain::kafka::{Header, LETTER_BYTES, Letter, Taken};
use crate::domain::{JobId, JobSpec, Timestamp};
use crate::kafka::Record;
use crate::submission::record::{Parts, from_record, job_id};
use crate::submission::settlement::enough;
use crate::submission::{Checked, Door, Rejected, code, text};

/// Bytes of one item, encoded: what fits into the largest command with all that is around it.
const ITEM_BYTES: usize = (2 << 20) - (64 << 10);

/// Bytes that an encoded job takes beside its texts and its payload, at most.
const JOB_BYTES: usize = 512;

/// The same of a letter beside what [`Letter::size`] counts, and of each of its headers.
const LETTER_BESIDE: usize = 400;
const HEADER_BESIDE: usize = 12;

/// Characters of a message that a letter carries.
const MESSAGE_MAX: usize = 4 << 10;

/// Replays that are counted.
const ATTEMPTS_MAX: u32 = 1_000_000;

/// What records are judged by.
pub(super) struct Rules<'a> {
    pub door: Door,
    pub now: Timestamp,
    /// What the contract takes no less than for a job, if that is known.
    pub least: Option<u128>,
    /// Whether a job is known already: a repeat may be late.
    pub known: &'a dyn Fn(JobId) -> bool,
}

/// A record, and what it is taken for.
#[derive(Debug)]
pub(super) struct Entry {
    pub record: Record,
    /// `None`: given away in a command; made again from the record if it was not taken.
    taken: Option<Taken>,
    /// The code of the letter it is; `None`: it is a job.
    letter: Option<&'static str>,
    /// Bytes of what it is taken for, encoded, at most.
    encoded: usize,
}

impl Entry {
    /// Judges a record. Whether it is too late is asked when it is given away.
    pub fn of(record: Record, door: Door, now: Timestamp) -> Self {
        let (taken, letter) = judge(&record, door, now);
        let encoded = encoded(&taken);
        Self { record, taken: Some(taken), letter, encoded }
    }

    /// What it costs in memory.
    pub fn bytes(&self) -> usize {
        self.record.size() + self.encoded
    }

    pub fn encoded(&self) -> usize {
        self.encoded
    }

    pub fn letter(&self) -> Option<&'static str> {
        self.letter
    }

    /// Gives up on making it a job.
    pub fn bury(&mut self, code: &'static str, message: &str, now: Timestamp) {
        let letter = Taken::Letter(Box::new(letter(&self.record, code, message, now)));
        self.encoded = encoded(&letter);
        (self.taken, self.letter) = (Some(letter), Some(code));
    }

    /// Gives away what it is taken for now.
    pub fn give(&mut self, rules: &Rules) -> Taken {
        if self.taken.is_none() {
            let (taken, letter) = judge(&self.record, rules.door, rules.now);
            self.encoded = encoded(&taken);
            (self.taken, self.letter) = (Some(taken), letter);
        }
        if let Some(Taken::Job(submit)) = &self.taken
            && submit.spec.deadline.is_some_and(|deadline| deadline <= rules.now)
            && !(rules.known)(submit.id)
        {
            let message = expired(submit);
            self.bury(code::EXPIRED, &message, rules.now);
        } else if let Some(Taken::Job(submit)) = &self.taken
            && let Err(error) = enough(&submit.spec, rules.least)
            && !(rules.known)(submit.id)
        {
            self.bury(code::INVALID_FIELD, &error.detail, rules.now);
        }
        let none = || judge(&self.record, rules.door, rules.now).0;
        self.taken.take().unwrap_or_else(none)
    }
}

/// Makes of a record what it is; of a letter also its code.
fn judge(record: &Record, door: Door, now: Timestamp) -> (Taken, Option<&'static str>) {
    let too_large = || Rejected::new(code::TOO_LARGE, format!("the job takes more than {ITEM_BYTES} bytes of the log"));
    let submit = submit(record, door).map(|submit| Taken::Job(Box::new(submit)));
    match submit.and_then(|job| if encoded(&job) <= ITEM_BYTES { Ok(job) } else { Err(too_large()) }) {
        Ok(job) => (job, None),
        Err(Rejected { code, message, .. }) => {
            (Taken::Letter(Box::new(letter(record, code, &message, now))), Some(code))
        }
    }
}

fn submit(record: &Record, door: Door) -> Result<Submit, Rejected> {
    let parts = Parts {
        topic: &record.partition.topic,
        partition: record.partition.number,
        offset: record.offset,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &record.headers,
    };
    let id = job_id(&parts)?;
    let checked = from_record(&parts, door)?;
    let fingerprint = checked.fingerprint();
    let Checked { spec, payload, .. } = checked;
    Ok(Submit { id, spec, payload, fingerprint, source: Source::Kafka })
}

/// The words for a job whose deadline has passed.
fn expired(submit: &Submit) -> String {
    let deadline = submit.spec.deadline.unwrap_or_default();
    format!("deadline must be in the future: {} is past", text::time(deadline))
}

/// The record byte for byte, as far as a letter may carry it, and what is wrong with it.
fn letter(record: &Record, code: &str, message: &str, now: Timestamp) -> Letter {
    let attempts: u32 = header(&record.headers, "dlq.attempts").and_then(|said| said.parse().ok()).unwrap_or(0);
    let first_failed_at = header(&record.headers, "dlq.first_failed_at").and_then(text::parse_time);
    let whole = Letter {
        partition: record.partition.clone(),
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.clone(),
        value: None,
        headers: record.headers.clone(),
        left_out: 0,
        code: code.into(),
        message: cut(message).into(),
        attempts: attempts.min(ATTEMPTS_MAX).saturating_add(1),
        // What a record says of itself may be anything.
        first_failed_at: first_failed_at.filter(|at| attempts > 0 && *at <= now),
    };
    let value = record.value.as_ref().map_or(0, Vec::len);
    let size = record.size();
    let names = record.headers.len() * HEADER_BESIDE;
    if size + names <= LETTER_BYTES {
        return Letter { value: record.value.clone(), ..whole };
    }
    if size - value + names <= LETTER_BYTES {
        return Letter { left_out: value as u64, ..whole };
    }
    // Not even key and headers fit. What is left out is counted together, so that nobody takes it for whole.
    Letter { key: None, headers: Vec::new(), left_out: size as u64, ..whole }
}

fn header<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let header = headers.iter().rev().find(|header| &*header.name == name)?;
    std::str::from_utf8(header.value.as_deref()?).ok().map(str::trim)
}

fn cut(message: &str) -> &str {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => &message[..end],
        None => message,
    }
}

/// Bytes of an item in a command, at most.
fn encoded(taken: &Taken) -> usize {
    match taken {
        Taken::Job(submit) => JOB_BYTES + submit.payload.as_ref().map_or(0, Vec::len) + texts(&submit.spec),
        Taken::Letter(letter) => {
            let topic = letter.partition.topic.len();
            LETTER_BESIDE + letter.size() + topic + letter.headers.len() * HEADER_BESIDE
        }
    }
}

fn texts(spec: &JobSpec) -> usize {
    let lists = [&spec.tags, &spec.requirements.required_frameworks, &spec.requirements.preferred_regions];
    let listed: usize = lists.into_iter().flatten().map(|text| text.len() + 5).sum();
    let one = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
    spec.kind.len() + one(&spec.input.uri) + one(&spec.client_address) + listed
}

#[cfg(test)]
pub(super) mod tests;
