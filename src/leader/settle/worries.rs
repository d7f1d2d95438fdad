//! What people should know about settlement, as one alarm.
//!
//! A worry lasts until what causes it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::chain::Alarm;
use crate::clock;
use crate::domain::State;
use crate::domain::journal::{JOURNAL_MAX, Sink};

/// Percent of the journal's bound from which on what is not planned is a worry.
const ALARM_PERCENT: u64 = 80;

/// While a worry lasts, its words are not changed more often: most hold numbers that differ each time.
const WORDS_LAST: Duration = Duration::from_secs(30);

/// The gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worry {
    /// The books are of another contract, account or chain.
    Site,
    Key,
    /// The contract takes nothing from us.
    Shut,
    /// Somebody else uses our account's epoch.
    Epoch,
    Down,
    /// What is asked of the chain fails.
    Failing,
    Balance,
    Payment,
    Fee,
    Hour,
    /// Something is refused that should not be.
    Stuck,
    /// A transaction does not land, whatever it pays.
    Late,
    /// No more can be parked.
    Parked,
    Lost,
    Undelivered,
}

pub(super) struct Worries {
    alarm: Alarm,
    said: BTreeMap<Worry, (String, Instant)>,
    lost: u64,
}

impl Worries {
    pub fn new(alarm: Alarm) -> Self {
        Self { alarm, said: BTreeMap::new(), lost: 0 }
    }

    /// `None`: it is over.
    pub fn note(&mut self, worry: Worry, text: Option<String>) {
        let changed = match text {
            Some(_) if self.said.get(&worry).is_some_and(|(_, at)| at.elapsed() < WORDS_LAST) => false,
            Some(text) => {
                let before = self.said.insert(worry, (text.clone(), clock::instant()));
                before.is_none_or(|(before, _)| before != text)
            }
            None => self.said.remove(&worry).is_some(),
        };
        if changed {
            let all: Vec<&str> = self.said.values().map(|(text, _)| text.as_str()).collect();
            self.alarm.note((!all.is_empty()).then(|| all.join("; ")));
        }
    }

    /// Of these worries only the one that is told of remains.
    pub fn only(&mut self, among: &[Worry], told: Option<(Worry, String)>) {
        let kept = told.as_ref().map(|(worry, _)| *worry);
        for worry in among.iter().filter(|worry| Some(**worry) != kept) {
            self.note(*worry, None);
        }
        if let Some((worry, text)) = told {
            self.note(worry, Some(text));
        }
    }

    /// Entries went before they were planned.
    pub fn lost(&mut self, entries: u64) {
        self.lost = self.lost.saturating_add(entries);
        let text = format!("{} entries were dropped from the journal before they were settled", self.lost);
        self.note(Worry::Lost, Some(text));
    }

    /// Looks at how much of the journal waits.
    pub fn look(&mut self, state: &State) {
        let cursor = state.journal().cursor(Sink::Chain);
        let waiting = cursor.map_or(0, |cursor| state.journal().waiting_after(cursor));
        self.note(Worry::Undelivered, undelivered(waiting));
    }
}

/// What to say of so many entries, if anything.
fn undelivered(waiting: u64) -> Option<String> {
    let percent = waiting.saturating_mul(100) / JOURNAL_MAX as u64;
    (percent >= ALARM_PERCENT).then(|| {
        // In steps, so that it is not said anew every second.
        let shown = percent / 5 * 5;
        format!("the journal is {shown} % full with what is not settled; at 100 % new jobs are refused")
    })
}
