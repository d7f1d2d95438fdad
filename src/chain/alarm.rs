//! What a duty complains of, for people who ask this node how the chain is.
//!
//! An alarm belongs to the duty that raised it and goes with it: a node that no
//! longer leads shows none.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use tracing::{info, warn};

use super::Handle;

/// The alarms there are, one for each duty.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<&'static str, String>);

impl Alarms {
    /// `duty: what keeps it from its work`.
    pub(super) fn all(&self) -> Vec<String> {
        self.0.iter().map(|(duty, text)| format!("{duty}: {text}")).collect()
    }
}

/// One duty's place among the alarms. Dropped: its alarm is over.
#[derive(Debug)]
pub struct Alarm {
    handle: Handle,
    duty: &'static str,
}

impl Alarm {
    pub(super) fn new(handle: Handle, duty: &'static str) -> Self {
        Self { handle, duty }
    }

    /// Says what keeps the duty from its work; `None`: nothing does. A change is logged, a repetition is not.
    pub fn note(&self, text: Option<String>) {
        let mut alarms = self.handle.0.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let before = alarms.0.get(self.duty);
        if before == text.as_ref() {
            return;
        }
        match text {
            Some(text) => {
                warn!(duty = self.duty, alarm = text, "chain alarm");
                alarms.0.insert(self.duty, text);
            }
            None => {
                info!(duty = self.duty, "chain alarm is over");
                alarms.0.remove(self.duty);
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.handle.0.alarms.lock().unwrap_or_else(PoisonError::into_inner).0.remove(self.duty);
    }
}
