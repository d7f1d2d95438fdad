//! What the contract answers, read felt by felt. All of it is checked: it comes from outside.

use crate::domain::Digest;
use crate::domain::chain::{Felt, U256};

/// Felts of an array in an answer. Beyond it the answer is refused.
const ITEMS_MAX: u64 = 10_000;

/// Bytes of a reference's URI.
const URI_MAX: u64 = 2_048;

/// First of the metadata of a job that others submit for us to run.
const REFERENCE: &[u8] = b"ciro.ref.v1";

/// `JobState` of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    Queued,
    Processing,
    Completed,
    Failed,
    Cancelled,
}

impl JobStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// `JobDetails`: times are Unix seconds, 0 for what has not happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    pub job: U256,
    pub job_type: u64,
    pub client: Felt,
    /// Where the assigned worker is paid; 0 while there is none.
    pub worker: Felt,
    pub state: JobStatus,
    pub payment: U256,
    /// 0: nobody submitted it.
    pub created_at: u64,
    pub assigned_at: u64,
    pub completed_at: u64,
    pub result_hash: Felt,
}

/// `JobSpec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub job_type: u64,
    pub model_id: U256,
    pub input_data_hash: Felt,
    pub expected_output_format: Felt,
    pub verification_method: u64,
    pub max_reward: U256,
    /// Unix seconds.
    pub sla_deadline: u64,
    pub compute_requirements: Vec<Felt>,
    pub metadata: Vec<Felt>,
}

/// A job that somebody else submitted, as far as it can be run here: its input is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub kind: String,
    pub sha256: Digest,
    pub uri: String,
}

impl Spec {
    /// What is to be run; `None` if the metadata does not say, or not well.
    pub fn reference(&self) -> Option<Reference> {
        let mut felts = Reader(&self.metadata);
        if felts.felt()?.text() != REFERENCE {
            return None;
        }
        let kind = String::from_utf8(felts.felt()?.text().to_vec()).ok()?;
        let (high, low) = (felts.felt()?.to_u128()?, felts.felt()?.to_u128()?);
        let mut sha256 = [0; 32];
        sha256[..16].copy_from_slice(&high.to_be_bytes());
        sha256[16..].copy_from_slice(&low.to_be_bytes());
        let uri = felts.bytes()?;
        let uri = String::from_utf8(uri).ok().filter(|uri| !uri.is_empty() && !uri.chars().any(char::is_control))?;
        felts.0.is_empty().then_some(Reference { kind, sha256: Digest(sha256), uri })
    }
}

/// Felts of an answer, read from the front. `None`: it is not what was asked for.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [Felt]);

impl Reader<'_> {
    pub(super) fn felt(&mut self) -> Option<Felt> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.felt()?.to_u64()
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.number()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn u256(&mut self) -> Option<U256> {
        let (low, high) = (self.felt()?.to_u128()?, self.felt()?.to_u128()?);
        Some(U256 { high, low })
    }

    /// A length, and so many of what `read` reads.
    pub(super) fn array<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.number().filter(|length| *length <= ITEMS_MAX)?;
        (0..length).map(|_| read(self)).collect()
    }

    /// A length, and so many felts of 31 bytes each, the last one with what is left of it.
    ///
    /// The last felt's leading zero bytes are not text: they are dropped.
    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.number().filter(|length| *length <= URI_MAX.div_ceil(31))?;
        let mut bytes = vec![];
        for at in 0..length {
            let felt = self.felt()?.to_bytes();
            let part = felt.get(1..).filter(|_| felt[0] == 0)?;
            let begin = if at + 1 == length { part.iter().position(|byte| *byte != 0).unwrap_or(31) } else { 0 };
            bytes.extend_from_slice(part.get(begin..)?);
        }
        Some(bytes)
    }

    pub(super) fn details(&mut self) -> Option<Details> {
        Some(Details {
            job: self.u256()?,
            job_type: self.number()?,
            client: self.felt()?,
            worker: self.felt()?,
            state: self.status()?,
            payment: self.u256()?,
            created_at: self.number()?,
            assigned_at: self.number()?,
            completed_at: self.number()?,
            result_hash: self.felt()?,
        })
    }

    fn status(&mut self) -> Option<JobStatus> {
        Some(match self.number()? {
            0 => JobStatus::Queued,
            1 => JobStatus::Processing,
            2 => JobStatus::Completed,
            3 => JobStatus::Failed,
            4 => JobStatus::Cancelled,
            _ => return None,
        })
    }

    pub(super) fn spec(&mut self) -> Option<Spec> {
        Some(Spec {
            job_type: self.number()?,
            model_id: self.u256()?,
            input_data_hash: self.felt()?,
            expected_output_format: self.felt()?,
            verification_method: self.number()?,
            max_reward: self.u256()?,
            sla_deadline: self.number()?,
            compute_requirements: self.array(Self::felt)?,
            metadata: self.array(Self::felt)?,
        })
    }

    /// `value`, if nothing is left.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(text: &[u8]) -> Felt {
        Felt::short(text).unwrap()
    }

    fn spec(metadata: Vec<Felt>) -> Spec {
        Spec {
            job_type: 0,
            model_id: U256::default(),
            input_data_hash: Felt::ZERO,
            expected_output_format: Felt::ZERO,
            verification_method: 0,
            max_reward: U256::default(),
            sla_deadline: 1,
            compute_requirements: vec![],
            metadata,
        }
    }

    fn reference(uri: &[&[u8]]) -> Vec<Felt> {
        let head = [short(REFERENCE), short(b"sha256"), Felt::from(1u128 << 120), Felt::from(2u128)];
        head.into_iter().chain([Felt::from(uri.len() as u64)]).chain(uri.iter().map(|part| short(part))).collect()
    }

    #[test]
    fn a_reference_is_read_from_the_metadata() {
        let found = spec(reference(&[b"https://files.example/a-long-na", b"me.bin"])).reference().unwrap();
        assert_eq!((found.kind.as_str(), found.uri.as_str()), ("sha256", "https://files.example/a-long-name.bin"));
        assert_eq!((found.sha256.0[0], found.sha256.0[31]), (1, 2));
    }

    #[test]
    fn what_is_no_reference_is_none() {
        let good = reference(&[b"https://x"]);
        assert!(spec(good.clone()).reference().is_some());
        for cut in 0..good.len() {
            assert_eq!(spec(good[..cut].to_vec()).reference(), None, "{cut} felts");
        }
        let mut longer = good.clone();
        longer.push(Felt::ZERO);
        assert_eq!(spec(longer).reference(), None);
        for (at, felt) in [(0, short(b"ciro.job.v1")), (1, short(&[0xff])), (4, Felt::from(u64::MAX)), (5, Felt::ZERO)]
        {
            let mut bad = good.clone();
            bad[at] = felt;
            assert_eq!(spec(bad).reference(), None, "felt {at} is {felt}");
        }
        assert_eq!(spec(reference(&[b"a\nb"])).reference(), None);
    }

    #[test]
    fn an_answer_with_a_wrong_length_is_refused() {
        let huge = [Felt::from(u64::MAX)];
        assert_eq!(Reader(&huge).array(Reader::felt), None);
        let short = [Felt::from(2u64), Felt::ZERO];
        assert_eq!(Reader(&short).array(Reader::felt), None);
        assert_eq!(Reader(&[Felt::from(7u64)]).status(), None);
        assert_eq!(Reader(&[Felt::from(2u64)]).flag(), None);
    }
}
