//! How many jobs are served before one.
//!
//! Turns between clients are found out by taking them ([`super::queue`]), so a
//! place is looked for among the first [`EXACT`] only. Further back it is counted:
//! the jobs of the same client that go first, which is all there is to know where
//! no other client waits. Nothing here is stored or decided.

use super::cow::Set;
use super::job::Job;
use super::matching::Class;
use super::queue::{FIRST, LAST, Line, Turn};
use super::shares::Client;
use super::state::State;
use super::time::Timestamp;

/// Turns that are taken to find a place.
pub const EXACT: usize = 1_024;

/// Where an open job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Jobs that are served first.
    pub ahead: usize,
    /// False: at least so many.
    pub exact: bool,
}

impl State {
    /// The place of a job that is open at `now`, which may be ahead of the log's clock.
    pub fn place(&self, job: &Job, now: Timestamp) -> Place {
        let line = Line::of(job);
        let own = self.own_ahead(&line);
        if self.is_in_turn_only(line.client, now) {
            return Place { ahead: own, exact: true };
        }
        match self.open_jobs(now).take(EXACT).position(|open| open.id == job.id) {
            Some(ahead) => Place { ahead, exact: true },
            None => Place { ahead: own.max(EXACT), exact: false },
        }
    }

    /// Whether jobs are served in the order of their turns, all of them: one client waits alone, nothing is urgent, no
    /// job's time has just come, and none has to wait for votes.
    fn is_in_turn_only(&self, client: Client, now: Timestamp) -> bool {
        let index = &self.index;
        let is_alone = index.lines.keys().next().is_none_or(|first| first.0 == client)
            && index.lines.keys_after(Some((client, Class::MAX, LAST))).next().is_none();
        is_alone
            && index.urgent.len() == 0
            && index.waiting.first().is_none_or(|((due, _), ())| *due > now)
            && index.ballot_bytes < self.limits.ballot_bytes
    }

    /// Open jobs of the same client that go first, whatever they ask of workers.
    fn own_ahead(&self, line: &Line) -> usize {
        let classes = classes_of(&self.index.lines, line.client);
        let before = |class| self.index.lines.count(&(line.client, class, FIRST), &(line.client, class, line.turn));
        classes.map(before).sum()
    }
}

fn classes_of(lines: &Set<(Client, Class, Turn)>, client: Client) -> impl Iterator<Item = Class> {
    let mut after = (client, 0, FIRST);
    std::iter::from_fn(move || {
        let (owner, class, _) = *lines.keys_after(Some(after)).next()?;
        after = (client, class, LAST);
        (owner == client).then_some(class)
    })
}
