//! Keys of jobs that left memory, so that a late retry is not a second job.
//!
//! A job named by an idempotency key may be sent again long after it ended and
//! was archived or removed. Its id is then all that tells the retry from a new
//! job, so the id, the fingerprint of the body and the number of the segment (0:
//! none) outlive the job, in the order in which jobs left, up to a bound. Jobs without a key can not be sent again
//! and leave nothing.

use super::cow::Map;
use super::ids::{Digest, JobId};

/// A job, the fingerprint of its body, and the segment it went to.
pub(super) type Key = (JobId, Digest, u32);

#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    /// By age: the lowest number was forgotten first.
    by_age: Map<u64, Key>,
    ages: Map<JobId, u64>,
    next: u64,
}

impl Retired {
    /// `None` if two entries are of one job.
    pub fn from_parts(by_age: Map<u64, Key>) -> Option<Self> {
        let mut retired = Self { by_age: Map::default(), ages: Map::default(), next: 0 };
        for (age, (id, _, _)) in by_age.iter() {
            if retired.ages.insert(*id, *age).is_some() {
                return None;
            }
            retired.next = age.checked_add(1)?;
        }
        retired.by_age = by_age;
        Some(retired)
    }

    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&u64, &Key)> {
        self.by_age.iter()
    }

    /// The fingerprint of the body with which the job was submitted, and the segment it went to.
    pub fn get(&self, id: JobId) -> Option<(Digest, u64)> {
        let age = self.ages.get(&id)?;
        self.by_age.get(age).map(|(_, fingerprint, segment)| (*fingerprint, u64::from(*segment)))
    }

    /// Takes a job's key over, and gives up the oldest beyond `most`.
    pub fn add(&mut self, id: JobId, fingerprint: Digest, segment: u64, most: usize) {
        if !id.is_from_key() {
            return;
        }
        self.by_age.insert(self.next, (id, fingerprint, u32::try_from(segment).unwrap_or(0)));
        self.ages.insert(id, self.next);
        self.next = self.next.saturating_add(1);
        while self.by_age.len() > most {
            let Some((&age, &(id, _, _))) = self.by_age.first() else { return };
            self.by_age.remove(&age);
            self.ages.remove(&id);
        }
    }
}
