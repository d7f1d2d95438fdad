//! What people should know about delivery, as one alarm.
//!
//! A worry lasts until what causes it is over; that entries were lost or left
//! out, and that nothing may be sent, until the term is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::error;

use super::cursor;
use crate::domain::journal::JOURNAL_MAX;
use crate::kafka::Alarm;
use crate::leader::Reign;

/// How often it is looked at how much is undelivered.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Percent of the journal's bound from which on the undelivered are a worry.
const ALARM_PERCENT: u64 = 80;

/// The gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worry {
    Foreign,
    Lost,
    /// Records went to no topic at all.
    Left,
    Undelivered,
    Failing,
}

pub(super) struct Worries {
    alarm: Alarm,
    said: Mutex<BTreeMap<Worry, String>>,
    lost: Mutex<u64>,
    left: Mutex<u64>,
}

impl Worries {
    pub fn new(alarm: Alarm) -> Self {
        Self { alarm, said: Mutex::default(), lost: Mutex::default(), left: Mutex::default() }
    }

    /// `None`: it is over.
    pub fn note(&self, worry: Worry, text: Option<String>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match text {
            Some(text) => said.insert(worry, text),
            None => said.remove(&worry),
        };
        let all: Vec<&str> = said.values().map(String::as_str).collect();
        self.alarm.note((!all.is_empty()).then(|| all.join("; ")));
    }

    /// Entries went before Kafka took them.
    pub fn lost(&self, entries: u64) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost += entries;
        self.note(Worry::Lost, Some(format!("{lost} entries were dropped from the journal before Kafka took them")));
    }

    /// Kafka takes a record in no form, in no topic.
    pub fn left(&self, cluster: &str, seq: u64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left += 1;
        let text = format!(
            "{left} records were left out, the last of them {cluster}-{seq}: Kafka refuses them for good, in the \
             dead-letter topic as well. See the settings of its topics; GET /jobs has what they would have said"
        );
        self.note(Worry::Left, Some(text));
    }

    /// Kafka has entries that this cluster's journal never had.
    pub fn foreign(&self, mark: u64, newest: u64, cluster: &str) {
        let text = format!(
            "nothing is published: Kafka has entries through {mark} of cluster {cluster:?}, whose journal ends at \
             {newest}. Another cluster publishes under this name, or this one was restored from an older copy: give \
             it another network.name, or delete the group {cluster}.journal in Kafka"
        );
        error!(watermark = mark, newest, "nothing is published: the watermark is not of this journal");
        self.note(Worry::Foreign, Some(text));
    }

    /// Looks at how much waits for Kafka, for as long as the term lasts.
    pub async fn watch(&self, reign: &Reign) {
        loop {
            let cursor = cursor::cursor(reign);
            let waiting =
                cursor.map_or(0, |cursor| reign.context.client.read(|state| state.journal().waiting_after(cursor)));
            self.note(Worry::Undelivered, undelivered(waiting));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What to say of so many entries, if anything.
fn undelivered(waiting: u64) -> Option<String> {
    let most = JOURNAL_MAX as u64;
    let percent = waiting.saturating_mul(100) / most;
    (percent >= ALARM_PERCENT).then(|| {
        // In steps, so that it is not said anew every second.
        let shown = percent / 5 * 5;
        format!("the journal is {shown} % full with what Kafka has not taken; at 100 % new jobs are refused")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_comes_before_the_bound() {
        let most = JOURNAL_MAX as u64;
        assert_eq!(undelivered(0), None);
        assert_eq!(undelivered(most / 100 * 79), None);
        assert!(undelivered(most / 100 * 80).unwrap().contains("80 %"));
        assert_eq!(undelivered(most / 100 * 83), undelivered(most / 100 * 80));
        assert!(undelivered(most * 2).unwrap().contains("200 %"));
    }
}
