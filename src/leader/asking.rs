//! How many workers a round asks, and how long jobs wait for their award.
//!
//! Of a thousand idle workers a few are enough to find a good one: all of them
//! would check a thousand signatures, and send a thousand messages, for each
//! round. So it is announced to a few groups of workers, other ones each time. A
//! job that found nobody is different: perhaps only one worker will have it, so
//! each time more are asked, in the end everybody. Not at once: if the answers
//! came too late, a thousand more would come later yet. Rounds are spaced by how
//! many workers hear them.
//!
//! A group hears the leader itself only, so workers that it is not connected to
//! are asked when everybody is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::domain::{JobId, WorkerId};
use crate::wire;

/// Workers asked for each job of a round. Each bids for sixteen jobs at least, so there is much to choose from.
const BIDDERS_PER_JOB: usize = 1;

/// Workers asked at least.
const BIDDERS_MIN: usize = 32;

/// Times as many are asked each time that a job has found nobody.
const MORE_EACH_TIME: usize = 4;

/// Jobs whose first announcement is remembered. Beyond this those that wait longest are forgotten, and not measured.
const WAITS_MAX: usize = 4_096;

/// Shortest time from one announcement to the next: who answers more often than the mesh allows is taken for a
/// flooder.
const PACE: Duration = Duration::from_millis(5);

/// The same for each worker that heard the last one, and at most. Every one of them checks the signature of every
/// announcement, so rounds that name more jobs, and are fewer, cost less.
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

/// Who is to answer a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// The groups that hear it, and who of them could win. `None`: everybody hears it.
    pub groups: Option<(Vec<u8>, BTreeSet<WorkerId>)>,
    /// Of a thousand that hear it, how many are to answer. 0: all of them.
    pub permille: u32,
}

impl Asked {
    /// Of those that could win now and that we are connected to, in groups from `first` on, as many as `jobs` need,
    /// one of which was passed over so many times.
    pub fn among(seats: usize, connected: &[WorkerId], first: u8, jobs: usize, passed_over: u32) -> Self {
        let more = MORE_EACH_TIME.saturating_pow(passed_over);
        let wanted = jobs.saturating_mul(BIDDERS_PER_JOB).max(BIDDERS_MIN).saturating_mul(more);
        if wanted.saturating_mul(5) >= seats.saturating_mul(4) || wanted >= connected.len() {
            return Self::default();
        }
        let (mut groups, mut hearing) = (Vec::new(), BTreeSet::new());
        for group in (first..wire::GROUPS).chain(0..first) {
            let before = hearing.len();
            hearing.extend(connected.iter().filter(|worker| wire::group(**worker) == group));
            if hearing.len() > before {
                groups.push(group);
            }
            if hearing.len() >= wanted {
                break;
            }
        }
        let permille = if hearing.len() * 4 > wanted * 5 { (wanted * 1_000).div_ceil(hearing.len()) } else { 0 };
        Self { permille: u32::try_from(permille).unwrap_or(0), groups: Some((groups, hearing)) }
    }

    pub fn includes(&self, worker: WorkerId, term: u64, seq: u64) -> bool {
        let hears = self.groups.as_ref().is_none_or(|(_, hearing)| hearing.contains(&worker));
        hears && wire::is_asked(worker, term, seq, self.permille)
    }

    /// How many hear it, if `all` workers are there.
    pub fn hearing(&self, all: usize) -> usize {
        self.groups.as_ref().map_or(all, |(_, hearing)| hearing.len())
    }

    /// The group that the next round begins with.
    pub fn next(&self, first: u8) -> u8 {
        let last = self.groups.as_ref().and_then(|(groups, _)| groups.last());
        last.map_or(first, |last| (last + 1) % wire::GROUPS)
    }
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
    use crate::domain::PeerId;

    fn workers(count: u32) -> Vec<WorkerId> {
        (0..count).map(|n| PeerId(crate::domain::Digest::of(&n.to_be_bytes()).0)).collect()
    }

    /// How many of so many workers hear a round, and how many of them are to answer.
    fn asked(count: u32, jobs: usize, passed_over: u32) -> (usize, usize) {
        let workers = workers(count);
        let asked = Asked::among(workers.len(), &workers, 0, jobs, passed_over);
        let answering = workers.iter().filter(|worker| asked.includes(**worker, 3, 9)).count();
        (asked.hearing(workers.len()), answering)
    }

    #[test]
    fn few_workers_are_all_asked_and_of_many_a_few_groups() {
        assert_eq!([asked(0, 0, 0), asked(3, 1, 0)], [(0, 0), (3, 3)]);
        assert_eq!(asked(40, 1, 0), (40, 40), "nearly all anyway");
        assert_eq!(asked(500, 512, 0), (500, 500));
        for (jobs, wanted) in [(1, 32), (50, 50), (400, 400)] {
            let (hearing, answering) = asked(1_000, jobs, 0);
            assert!((wanted..wanted + 60).contains(&hearing), "{jobs} jobs: {hearing} hear it");
            assert!((wanted * 3 / 4..wanted * 3 / 2).contains(&answering), "{jobs} jobs: {answering} answer");
        }
        let (hearing, answering) = asked(20_000, 1, 0);
        assert!(hearing < 800 && (16..64).contains(&answering), "of {hearing} that hear it {answering} answer");
    }

    #[test]
    fn groups_take_turns_and_those_that_the_leader_is_not_connected_to_are_asked_with_everybody() {
        let all = workers(1_000);
        let (mut first, mut heard) = (0, BTreeSet::new());
        for _ in 0..32 {
            let asked = Asked::among(1_000, &all, first, 1, 0);
            first = asked.next(first);
            heard.extend(asked.groups.expect("a share").1);
        }
        assert_eq!(heard.len(), 1_000);
        let (near, far) = all.split_at(500);
        let asked = Asked::among(1_000, near, 0, 1, 0);
        assert!(!far.iter().any(|worker| asked.includes(*worker, 1, 1)));
        assert_eq!(Asked::among(1_000, near, 0, 500, 0), Asked::default());
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
        let hearing = [0, 1, 2, 3, u32::MAX].map(|times| asked(1_000, 1, times).0);
        assert!(hearing.windows(2).all(|pair| pair[0] < pair[1] || pair[0] == 1_000), "{hearing:?}");
        assert_eq!(hearing[3..], [1_000, 1_000]);
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
