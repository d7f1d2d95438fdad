//! Bids that lost in the last rounds: the soft half of an open job.
//!
//! The leader's market writes it, the API of the same node reads it. Nothing
//! here is replicated: a new leader hears the bids again. It tells why a job
//! still waits, and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::JobId;
use crate::domain::lost::LostRound;

/// Jobs remembered. Beyond it the one that was noted longest ago is forgotten.
pub const JOBS_MAX: usize = 4_096;

#[derive(Clone, Default)]
pub struct LostBids {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    rounds: BTreeMap<JobId, (u64, LostRound)>,
    order: BTreeMap<u64, JobId>,
    last: u64,
}

impl LostBids {
    /// Notes the round in which a job stayed open last.
    pub fn note(&self, job: JobId, round: LostRound) {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        if let Some((before, _)) = inner.rounds.insert(job, (number, round)) {
            inner.order.remove(&before);
        }
        inner.order.insert(number, job);
        while inner.rounds.len() > JOBS_MAX {
            let Some((_, oldest)) = inner.order.pop_first() else { return };
            inner.rounds.remove(&oldest);
        }
    }

    pub fn get(&self, job: JobId) -> Option<LostRound> {
        self.lock().rounds.get(&job).map(|(_, round)| round.clone())
    }

    /// Forgets all, when another leads or a term begins.
    pub fn clear(&self) {
        *self.lock() = Inner::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, and what is in it is whole at any time.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn round(at: u64) -> LostRound {
        LostRound { at: Timestamp(at), attempt: 1, ceiling: None, answers: 0, bids: 0, cheapest: vec![] }
    }

    fn job(n: usize) -> JobId {
        let mut id = JobId([0; 16]);
        id.0[..8].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn the_job_noted_longest_ago_makes_room() {
        let lost = LostBids::default();
        for n in 0..JOBS_MAX {
            lost.note(job(n), round(1));
        }
        lost.note(job(0), round(2));
        lost.note(job(JOBS_MAX), round(3));
        assert_eq!(lost.get(job(0)).map(|round| round.at), Some(Timestamp(2)), "it was noted again");
        assert_eq!(lost.get(job(1)), None);
        assert!(lost.get(job(2)).is_some() && lost.get(job(JOBS_MAX)).is_some());
        lost.clear();
        assert_eq!(lost.get(job(2)), None);
    }
}
