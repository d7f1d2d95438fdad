//! Finished jobs leave memory: into segments, and for good.

use super::Step;
use crate::domain::archive::{Archived, Retain, seal};
use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::ids::JobId;
use crate::domain::index::Facets;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// Segments that one record seals, so that no record takes long. What is beyond them goes with the records after it.
pub const SEALED_MAX: u64 = 4;

/// Jobs that one command removes from memory.
const EXPIRED_MAX: usize = 2_000;

impl Step<'_> {
    /// Seals the oldest finished jobs beyond what memory holds, as far as there are enough for a segment.
    pub(super) fn archive(&mut self) {
        for _ in 0..SEALED_MAX {
            let Some(ids) = self.state.batch() else { return };
            let number = self.state.archive.last() + 1;
            let jobs: Vec<Archived> = ids.iter().filter_map(|id| self.take(*id, number)).collect();
            self.state.archive.add(seal(number, &jobs));
            self.touched.archive = true;
        }
    }

    /// Takes a finished job out of memory. Its key stays, if it has one: `segment` says where the job is, 0 is nowhere.
    fn take(&mut self, id: JobId, segment: u64) -> Option<Archived> {
        let State { limits, jobs, payloads, outputs, retired, index, shares, now, chain, .. } = &mut *self.state;
        let job = jobs.remove(&id)?;
        index.change(Some(&Facets::of(&job, *now)), None, shares);
        retired.add(id, job.fingerprint, segment, limits.retired);
        let settlement = chain.settlement(id).cloned();
        chain.forget(id);
        self.touched.jobs.insert(id);
        Some(Archived { job, payload: payloads.remove(&id), output: outputs.remove(&id), settlement })
    }

    pub(super) fn retain(&mut self, retain: &Retain) -> Reply {
        match *retain {
            Retain::Hold { hot, batch } => self.hold(hot, batch),
            Retain::Drop { through } => self.drop_segments(through),
            Retain::Expire { before } => Ok(self.expire_finished(before)),
        }
    }

    fn hold(&mut self, hot: u32, batch: u32) -> Reply {
        if hot == 0 || batch == 0 {
            return Err(Refusal::Invalid("some jobs must stay in memory, and leave it".to_owned()));
        }
        if self.state.archive.hold == Some((hot, batch)) {
            return Ok(Done::Unchanged);
        }
        self.state.archive.hold = Some((hot, batch));
        self.touched.archive = true;
        Ok(Done::Retained { removed: 0 })
    }

    fn drop_segments(&mut self, through: u64) -> Reply {
        let archive = &mut self.state.archive;
        if through > archive.last() {
            return Err(Refusal::Invalid(format!("there is no segment {through} yet")));
        }
        let before = archive.removed_total();
        while archive.dropped() < through && archive.drop_oldest().is_some() {}
        Ok(self.removed(before))
    }

    fn expire_finished(&mut self, before: Timestamp) -> Done {
        let undelivered = self.state.journal.undelivered_since();
        let old = self
            .state
            .index
            .finished
            .keys()
            .take_while(|(ended, _)| *ended < before && undelivered.is_none_or(|since| *ended < since));
        let ids: Vec<JobId> = old.take(EXPIRED_MAX).map(|(_, id)| *id).collect();
        let removed = self.state.archive.removed_total();
        for id in ids {
            if self.take(id, 0).is_some() {
                self.state.archive.removed_total = self.state.archive.removed_total.saturating_add(1);
            }
        }
        self.removed(removed)
    }

    fn removed(&mut self, before: u64) -> Done {
        let removed = self.state.archive.removed_total().saturating_sub(before);
        if removed == 0 {
            return Done::Unchanged;
        }
        self.touched.archive = true;
        Done::Retained { removed }
    }
}
