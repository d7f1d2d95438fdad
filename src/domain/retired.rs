//! Keys of jobs that are forgotten, so that a late retry is not a second job.
//!
//! A job named by an idempotency key may be sent again long after it ended and
//! was forgotten. Its id is then all that tells the retry from a new job, so the
//! id and the fingerprint of the body outlive the job, in the order in which
//! jobs were forgotten, up to a bound. Jobs without a key can not be sent again
//! and leave nothing.

use super::cow::Map;
use super::ids::{Digest, JobId};

#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    /// By age: the lowest number was forgotten first.
    by_age: Map<u64, (JobId, Digest)>,
    ages: Map<JobId, u64>,
    next: u64,
}

impl Retired {
    /// `None` if two entries are of one job.
    pub fn from_parts(by_age: Map<u64, (JobId, Digest)>) -> Option<Self> {
        let mut retired = Self { by_age: Map::default(), ages: Map::default(), next: 0 };
        for (age, (id, _)) in by_age.iter() {
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

    pub fn iter(&self) -> impl Iterator<Item = (&u64, &(JobId, Digest))> {
        self.by_age.iter()
    }

    /// The fingerprint of the body with which the job was submitted.
    pub fn fingerprint(&self, id: JobId) -> Option<Digest> {
        let age = self.ages.get(&id)?;
        self.by_age.get(age).map(|(_, fingerprint)| *fingerprint)
    }

    /// Takes a job's key over, and gives up the oldest beyond `most`.
    pub fn add(&mut self, id: JobId, fingerprint: Digest, most: usize) {
        if !id.is_from_key() {
            return;
        }
        self.by_age.insert(self.next, (id, fingerprint));
        self.ages.insert(id, self.next);
        self.next = self.next.saturating_add(1);
        while self.by_age.len() > most {
            let Some((&age, &(id, _))) = self.by_age.first() else { return };
            self.by_age.remove(&age);
            self.ages.remove(&id);
        }
    }
}
