//! The partitions that are read, and what was read of each but not taken yet.
//!
//! Pure: told what was read, what the log answered and what time it is, it says
//! what to commit and which partitions to hold. One commit is under way at a
//! time, so the offsets of a partition enter the log in order.
//!
//! Invariants
//!
//! * A record leaves its lane only when the log has passed its offset.
//! * What a lane holds begins where the log is. If the log is anywhere else, the
//!   lane is emptied and read again from there.
//! * Bytes and records are bounded, for a lane and for all: [`LANE_BYTES`],
//!   [`LANE_RECORDS`], [`ALL_BYTES`]. At a bound reading pauses.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::domain::command::{Done, Refusal, Reply};
use crate::domain::kafka::{Ingest, Ingested, Item, Partition};
use crate::domain::{Command, Timestamp};

use super::judge::{Entry, Rules};

/// Read of one partition and not taken yet. Beyond it the partition is not read; it is again from the half of it on.
const LANE_BYTES: usize = 8 << 20;
const LANE_RECORDS: usize = 8_192;

/// The same of all together.
const ALL_BYTES: usize = 64 << 20;

/// How long a lane waits after the log had no room: at first, and at most.
const HOLD: Duration = Duration::from_millis(100);
const HOLD_MAX: Duration = Duration::from_secs(3);

/// How much is committed at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Of one partition.
    pub each: usize,
    pub records: usize,
    /// Encoded. One record goes alone, however large.
    pub bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<Partition, Lane>,
    /// Whose turn it is.
    turn: usize,
    tally: Tally,
}

/// Records that the log has taken, by what became of them: `job`, or a letter's code.
pub(super) type Tally = BTreeMap<&'static str, usize>;

#[derive(Debug, Default)]
struct Lane {
    /// Where the log is, as it last said.
    next: u64,
    /// Behind the last record that was read.
    read: u64,
    queue: VecDeque<Entry>,
    bytes: usize,
    hold: Option<Hold>,
    /// Why nothing can be read, until the log is elsewhere.
    stuck: Option<String>,
    paused: bool,
}

/// Why and for how long a lane waits.
#[derive(Debug)]
struct Hold {
    until: Instant,
    pause: Duration,
    /// For people; a full backlog is no reason for an alarm.
    alarm: Option<String>,
}

/// What of one lane is being committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub partition: Partition,
    pub next: u64,
}

/// What an answer of the log means for the one who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Taken, as far as this; the rest follows.
    Fine,
    /// The log had no room. For metrics.
    Held(&'static str),
    /// A record became a letter after all. For metrics.
    Buried(&'static str),
    /// The lane is to be read from elsewhere.
    Moved,
    /// The log does not belong to this Kafka, or did not answer: begin anew.
    Anew,
}

impl Lanes {
    /// Adds a partition that is read from `next`, or is not because of `stuck`.
    pub fn add(&mut self, partition: Partition, next: u64, stuck: Option<String>) {
        self.lanes.insert(partition, Lane { next, read: next, stuck, ..Lane::default() });
    }

    pub fn knows(&self, partition: &Partition) -> bool {
        self.lanes.contains_key(partition)
    }

    /// What to assign: every lane that can be read, behind what was read already. It is then not paused.
    pub fn assignment(&mut self) -> Vec<(Partition, u64)> {
        let readable = self.lanes.iter_mut().filter(|(_, lane)| lane.stuck.is_none());
        let at = readable.map(|(partition, lane)| {
            lane.paused = false;
            (partition.clone(), lane.read)
        });
        at.collect()
    }

    /// Where the log is in each partition, for dashboards.
    pub fn offsets(&self) -> Vec<(Partition, u64)> {
        self.lanes.iter().map(|(partition, lane)| (partition.clone(), lane.next)).collect()
    }

    /// Nothing can be read at `partition` until the log is elsewhere.
    pub fn stick(&mut self, partition: &Partition, why: String) {
        if let Some(lane) = self.lanes.get_mut(partition) {
            lane.stuck = Some(why);
        }
    }

    /// Takes in what was read. Records that were read before are passed over.
    pub fn push(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Some(lane) = self.lanes.get_mut(&entry.record.partition) else { continue };
            if entry.record.offset < lane.read || lane.stuck.is_some() {
                continue;
            }
            lane.read = entry.record.offset.saturating_add(1);
            lane.bytes += entry.bytes();
            lane.queue.push_back(entry);
        }
    }

    /// What to commit next: at most one command for each partition, so that its answer says how far it got.
    pub fn cut(&mut self, cluster: &str, bounds: Bounds, rules: &Rules, at: Instant) -> Vec<(Sent, Command)> {
        let mut left = bounds;
        let mut cut = Vec::new();
        let due = |lane: &Lane| !lane.queue.is_empty() && !lane.is_held(at);
        let mut due: Vec<(&Partition, &mut Lane)> = self.lanes.iter_mut().filter(|(_, lane)| due(lane)).collect();
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn.checked_rem(due.len()).unwrap_or(0);
        due.rotate_left(turn);
        for (partition, lane) in due {
            let items = lane.cut(&mut left, cut.is_empty(), rules);
            let Some(next) = items.last().map(|item| item.offset.saturating_add(1)) else { continue };
            let partition = partition.clone();
            let ingest =
                Ingest { cluster: cluster.to_owned(), partition: partition.clone(), from: lane.next, items, next };
            cut.push((Sent { partition, next }, Command::Ingest(Box::new(ingest))));
        }
        cut
    }

    /// Takes an answer to what was sent.
    pub fn hear(&mut self, sent: &Sent, reply: &Reply, now: Timestamp, at: Instant) -> Heard {
        let Some(lane) = self.lanes.get_mut(&sent.partition) else { return Heard::Fine };
        match reply {
            Ok(Done::Ingested(Ingested { next, refused: None })) if *next == sent.next => {
                lane.hold = None;
                lane.pass(*next, &mut self.tally);
                Heard::Fine
            }
            Ok(Done::Ingested(Ingested { next, refused: None })) => {
                lane.go_to(*next);
                Heard::Moved
            }
            Ok(Done::Ingested(Ingested { next, refused: Some(refusal) })) => {
                lane.pass(*next, &mut self.tally);
                lane.refused(*next, refusal, now, at)
            }
            Err(refusal @ Refusal::Invalid(_)) => lane.wait(refusal.code(), Some(refusal.to_string()), at),
            Ok(_) | Err(_) => Heard::Anew,
        }
    }

    /// Compares a lane with where the log is now, while nothing of it is under way. True: it is to be read from there.
    pub fn compare(&mut self, partition: &Partition, next: Option<u64>) -> bool {
        let Some(lane) = self.lanes.get_mut(partition) else { return false };
        match next {
            Some(next) if next != lane.next => {
                lane.go_to(next);
                true
            }
            _ => false,
        }
    }

    /// Partitions to pause, and to resume. `all`: nothing is to be read at all.
    pub fn pauses(&mut self, all: bool, at: Instant) -> (Vec<Partition>, Vec<Partition>) {
        let full = self.bytes() >= ALL_BYTES;
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (partition, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.stuck.is_none()) {
            let wanted = all || lane.is_full() || (full && lane.bytes > 0) || lane.is_held(at);
            if wanted != lane.paused {
                lane.paused = wanted;
                if wanted { &mut pause } else { &mut resume }.push(partition.clone());
            }
        }
        (pause, resume)
    }

    /// What keeps lanes from being read, for people.
    pub fn alarms(&self) -> Vec<String> {
        let of = |lane: &Lane| lane.stuck.clone().or_else(|| lane.hold.as_ref()?.alarm.clone());
        let mut alarms: Vec<String> = self.lanes.values().filter_map(of).collect();
        alarms.dedup();
        alarms
    }

    /// What the log has taken since this was asked last.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    fn bytes(&self) -> usize {
        self.lanes.values().map(|lane| lane.bytes).sum()
    }

    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.lanes.keys()
    }
}

impl Lane {
    /// Gives away what fits. The entries stay until the log says that they were taken.
    fn cut(&mut self, left: &mut Bounds, first: bool, rules: &Rules) -> Vec<Item> {
        let mut items = Vec::new();
        for entry in self.queue.iter_mut().take(left.each) {
            let alone = first && items.is_empty();
            if left.records == 0 || (entry.encoded() > left.bytes && !alone) {
                break;
            }
            self.bytes -= entry.bytes();
            let taken = entry.give(rules);
            self.bytes += entry.bytes();
            left.records -= 1;
            left.bytes = left.bytes.saturating_sub(entry.encoded());
            items.push(Item { offset: entry.record.offset, taken });
        }
        items
    }

    /// The log is at `next`: what is before it was taken.
    fn pass(&mut self, next: u64, tally: &mut Tally) {
        self.next = next;
        while self.queue.front().is_some_and(|entry| entry.record.offset < next) {
            let Some(entry) = self.queue.pop_front() else { break };
            self.bytes -= entry.bytes();
            *tally.entry(entry.letter().unwrap_or("job")).or_default() += 1;
        }
    }

    /// Forgets what was read: the log is somewhere else.
    fn go_to(&mut self, next: u64) {
        *self = Self { next, read: next, paused: self.paused, ..Self::default() };
    }

    fn refused(&mut self, next: u64, refusal: &Refusal, now: Timestamp, at: Instant) -> Heard {
        match refusal {
            Refusal::BacklogFull { .. } => self.wait(refusal.code(), None, at),
            Refusal::LettersFull { .. } => self.wait(refusal.code(), Some(refusal.to_string()), at),
            _ => {
                self.hold = None;
                let Some(entry) = self.queue.front_mut().filter(|entry| entry.record.offset == next) else {
                    return Heard::Anew;
                };
                self.bytes -= entry.bytes();
                entry.bury(refusal.code(), &refusal.to_string(), now);
                self.bytes += entry.bytes();
                Heard::Buried(refusal.code())
            }
        }
    }

    fn wait(&mut self, why: &'static str, alarm: Option<String>, at: Instant) -> Heard {
        let pause = self.hold.as_ref().map_or(HOLD, |hold| (hold.pause * 2).min(HOLD_MAX));
        self.hold = Some(Hold { until: at + pause, pause, alarm });
        Heard::Held(why)
    }

    fn is_held(&self, at: Instant) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.until > at)
    }

    /// Whether it holds too much: read again from the half on.
    fn is_full(&self) -> bool {
        let of = if self.paused { 2 } else { 1 };
        self.bytes >= LANE_BYTES / of || self.queue.len() >= LANE_RECORDS / of
    }
}

#[cfg(test)]
mod tests;
