//! What a node knows of its segments, in memory: where each is, and where each job is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::domain::archive::{Entry, FINAL, Segment};
use crate::domain::{JobId, JobState};

use super::Unreadable;

/// Places looked at, or let go, without giving way to others.
pub(super) const SLICE: usize = 4_096;

#[derive(Default)]
pub(super) struct Inner {
    segments: BTreeMap<u64, Held>,
    /// Those of them that are in memory only.
    waiting: BTreeSet<u64>,
    pub places: BTreeMap<JobId, Place>,
    pub dropped: u64,
    /// How far places of dropped segments were let go; `None`: there are none.
    sweep: Option<Option<JobId>>,
    /// What the last snapshot said was dropped.
    pub last_snapshot: Option<u64>,
}

#[derive(Clone)]
pub(super) struct Held {
    pub segment: Arc<Segment>,
    pub at: At,
    /// Whether its jobs are among the places.
    pub indexed: bool,
}

#[derive(Clone)]
pub(super) enum At {
    Memory(Arc<[u8]>),
    Disk,
    /// Not here, or damaged.
    Missing(&'static str),
}

/// Where a job is: its segment, and in it the offset, with the final state in the last two bits.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub segment: u32,
    packed: u32,
}

impl Place {
    pub fn of(segment: u64, entry: &Entry) -> Self {
        let state = FINAL.iter().position(|state| *state == entry.state).unwrap_or(0);
        let packed = entry.offset << 2 | u32::try_from(state).unwrap_or(0);
        Self { segment: u32::try_from(segment).unwrap_or(u32::MAX), packed }
    }

    pub fn offset(self) -> u32 {
        self.packed >> 2
    }

    pub fn state(self) -> JobState {
        FINAL.get((self.packed & 3) as usize).copied().unwrap_or(JobState::Completed)
    }
}

impl Inner {
    pub fn segment(&self, number: u64) -> Option<&Held> {
        self.segments.get(&number)
    }

    pub fn segments(&self) -> impl Iterator<Item = &Held> {
        self.segments.values()
    }

    pub fn insert(&mut self, held: Held) {
        let (number, at) = (held.segment.number, held.at.clone());
        self.segments.insert(number, held);
        self.set(number, at);
    }

    /// Says where a segment is now.
    pub fn set(&mut self, number: u64, at: At) {
        let Some(held) = self.segments.get_mut(&number) else { return };
        match at {
            At::Memory(_) => self.waiting.insert(number),
            At::Disk | At::Missing(_) => self.waiting.remove(&number),
        };
        held.at = at;
    }

    /// How many segments are in memory only.
    pub fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Those, the oldest first, with their bytes.
    pub fn waiting(&self) -> Vec<(Arc<Segment>, Arc<[u8]>)> {
        let bytes = |held: &Held| match &held.at {
            At::Memory(bytes) => Some((Arc::clone(&held.segment), Arc::clone(bytes))),
            At::Disk | At::Missing(_) => None,
        };
        self.waiting.iter().filter_map(|number| self.segments.get(number).and_then(bytes)).collect()
    }

    pub fn keeps(&self, place: Place) -> bool {
        u64::from(place.segment) > self.dropped
    }

    /// A segment whose jobs are not known.
    pub fn lacking(&self) -> Option<&Held> {
        self.segments.values().find(|held| !held.indexed)
    }

    /// A job that is there twice, since its key was forgotten meanwhile, is the newer one.
    pub fn place(&mut self, segment: &Segment, entries: &[Entry]) {
        for entry in entries {
            let place = Place::of(segment.number, entry);
            let known = self.places.entry(entry.id).or_insert(place);
            if known.segment < place.segment {
                *known = place;
            }
        }
    }

    pub fn drop_through(&mut self, dropped: u64) {
        if dropped > self.dropped {
            self.dropped = dropped;
            self.sweep = Some(None);
            self.segments = self.segments.split_off(&(dropped + 1));
            self.waiting = self.waiting.split_off(&(dropped + 1));
        }
    }

    /// Lets go of some places of dropped segments; `false`: that was all.
    pub fn let_go(&mut self) -> bool {
        let Some(cursor) = self.sweep else { return false };
        let from = cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let slice = self.places.range((from, Bound::Unbounded)).take(SLICE);
        let seen: Vec<(JobId, bool)> = slice.map(|(id, place)| (*id, self.keeps(*place))).collect();
        for (id, _) in seen.iter().filter(|(_, kept)| !kept) {
            self.places.remove(id);
        }
        self.sweep = (seen.len() == SLICE).then(|| seen.last().map(|(id, _)| *id));
        self.sweep.is_some()
    }
}

impl Held {
    pub fn unreadable(&self, why: &str) -> Unreadable {
        Unreadable { segment: self.segment.name(), why: why.to_owned() }
    }
}
