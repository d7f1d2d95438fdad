//! How many workers a round asks, and how long jobs wait for their award.
//!
//! Of a thousand idle workers a few are enough to find a good one: all of them
//! would send a thousand messages to every coordinator for each round. So a share
//! is asked, drawn anew each round. A job that found nobody is different: perhaps
//! only one worker will have it, so each time more are asked, in the end everybody.
//! Not at once: if the answers came too late, a thousand more would come later yet.
//! Everybody hears every announcement all the same, so rounds are spaced by how many that are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::domain::JobId;

/// Workers asked for each job of a round.
const BIDDERS_PER_JOB: usize = 4;

/// Workers asked at least.
const BIDDERS_MIN: usize = 32;

/// Times as many are asked each time that a job has found nobody.
const MORE_EACH_TIME: usize = 4;

/// Jobs whose first announcement is remembered. Beyond this those that wait longest are forgotten, and not measured.
const WAITS_MAX: usize = 4_096;

/// Shortest time from one announcement to the next: who answers more often than the mesh allows is taken for a
/// flooder.
const PACE: Duration = Duration::from_millis(5);

/// The same for each worker that hears it, and at most. Every one of them checks the signature of every announcement,
/// so rounds that name more jobs, and are fewer, cost less.
const PACE_PER_WORKER: Duration = Duration::from_micros(200);
const PACE_MAX: Duration = Duration::from_secs(1);

/// Shortest time from one announcement to the next if so many workers hear it.
pub(super) fn pace(workers: usize) -> Duration {
    PACE_PER_WORKER.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX)).clamp(PACE, PACE_MAX)
}

/// One in so many of those asked must have answered when the window is over, or the round goes on.
const HEARD_ENOUGH: usize = 4;

/// For so many windows at most.
const WINDOWS_MAX: u32 = 5;

/// How long a round goes on, from its announcement, if `missing` of `asked` have not answered yet.
///
/// Answers to a round that is over are worth nothing. Where all of them take longer than the window (a starved
/// machine, a far leader), rounds that end without them would follow each other for ever, and the work that makes
/// would keep it so.
pub(super) fn patience(window: Duration, asked: usize, missing: usize) -> Duration {
    let heard = asked.saturating_sub(missing);
    if heard * HEARD_ENOUGH >= asked { window } else { window * WINDOWS_MAX }
}

/// Of a thousand workers, how many are to answer; 0 for all of them.
///
/// `seats` could win now, `jobs` are announced, one of which was passed over so many times.
pub(super) fn share(seats: usize, jobs: usize, passed_over: u32) -> u32 {
    let more = MORE_EACH_TIME.saturating_pow(passed_over);
    let wanted = jobs.saturating_mul(BIDDERS_PER_JOB).max(BIDDERS_MIN).saturating_mul(more);
    if wanted.saturating_mul(5) >= seats.saturating_mul(4) {
        return 0;
    }
    u32::try_from((wanted * 1_000).div_ceil(seats)).unwrap_or(0)
}

/// When jobs were announced first.
#[derive(Debug, Default)]
pub(super) struct Waits {
    since: BTreeMap<JobId, Instant>,
}

impl Waits {
    pub fn announced(&mut self, jobs: impl Iterator<Item = JobId>, now: Instant) {
        for job in jobs {
            self.since.entry(job).or_insert(now);
        }
        if self.since.len() > WAITS_MAX {
            let mut all: Vec<Instant> = self.since.values().copied().collect();
            let (_, median, _) = all.select_nth_unstable(WAITS_MAX / 2);
            let median = *median;
            self.since.retain(|_, since| *since > median);
        }
    }

    /// How long each of `jobs` has waited; they are forgotten.
    pub fn awarded(&mut self, jobs: &[JobId], now: Instant) -> impl Iterator<Item = Duration> {
        let since = jobs.iter().filter_map(|job| self.since.remove(job));
        since.map(|since| now.saturating_duration_since(since)).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn few_workers_are_all_asked_and_of_many_a_share() {
        assert_eq!(share(0, 0, 0), 0);
        assert_eq!(share(3, 1, 0), 0);
        assert_eq!(share(40, 1, 0), 0, "nearly all anyway");
        assert_eq!(share(1_000, 1, 0), 32);
        assert_eq!(share(1_000, 50, 0), 200);
        assert_eq!(share(1_000, 512, 0), 0);
        assert_eq!(share(1_000_000, 1, 0), 1, "not nobody");
    }

    #[test]
    fn the_more_workers_hear_an_announcement_the_fewer_there_are() {
        let ms = [0, 3, 100, 1_000, 100_000, usize::MAX].map(|workers| pace(workers).as_millis());
        assert_eq!(ms, [5, 5, 20, 200, 1_000, 1_000]);
    }

    #[test]
    fn a_round_that_next_to_nobody_answered_goes_on_until_enough_have() {
        let window = Duration::from_millis(200);
        let patience = |asked, missing| patience(window, asked, missing).as_millis();
        assert_eq!(patience(32, 32), 1_000, "nobody");
        assert_eq!(patience(32, 25), 1_000);
        assert_eq!(patience(32, 24), 200, "enough to choose from");
        assert_eq!([patience(1, 1), patience(1, 0), patience(0, 0)], [1_000, 200, 200]);
    }

    #[test]
    fn for_a_job_that_found_nobody_more_are_asked_until_it_is_everybody() {
        assert_eq!([0, 1, 2, 3, u32::MAX].map(|times| share(1_000, 1, times)), [32, 128, 512, 0, 0]);
    }

    #[test]
    fn a_wait_begins_with_the_first_announcement_and_ends_with_the_award() {
        let (mut waits, start) = (Waits::default(), clock::instant());
        let jobs = [JobId([1; 16]), JobId([2; 16])];
        waits.announced(jobs.into_iter(), start);
        let later = start + Duration::from_secs(1);
        waits.announced(jobs.into_iter(), later);
        let end = later + Duration::from_secs(1);
        assert_eq!(waits.awarded(&jobs[..1], end).collect::<Vec<_>>(), [Duration::from_secs(2)]);
        assert_eq!(waits.awarded(&jobs[..1], end).count(), 0, "an award is measured once");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut waits, start) = (Waits::default(), clock::instant());
        for n in 0..3 * WAITS_MAX as u64 {
            let job = JobId(u128::from(n).to_be_bytes());
            waits.announced([job].into_iter(), start + Duration::from_millis(n));
            assert!(waits.since.len() <= WAITS_MAX);
        }
        assert!(waits.since.contains_key(&JobId((3 * WAITS_MAX as u128 - 1).to_be_bytes())));
    }
}
