//! A simulated Kafka: it loses acknowledgements, takes a part of a batch, takes a batch twice.

use std::collections::BTreeMap;

use rand::Rng as _;

use super::world::World;
use crate::domain::kafka::Partition;
use crate::kafka::Message;
use crate::leader::sim::Records;

/// What a consumer tells records apart by: `ce_id`, `ce_type`, `ce_subject` and key.
type Identity = (Vec<Option<Vec<u8>>>, Option<Vec<u8>>, String);

#[derive(Default)]
pub(super) struct Broker {
    /// What was taken, by the number of its entry, and how often.
    pub taken: BTreeMap<u64, (Identity, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Acknowledged,
    NoAnswer,
}

/// The one that jobs come by.
#[expect(non_snake_case, reason = "a constant, but for its box")]
pub(super) fn PARTITION() -> Partition {
    Partition { topic: "jobs".into(), number: 0 }
}

fn identity(message: &Message) -> Identity {
    let named = ["ce_id", "ce_type", "ce_subject", "ce_time"];
    let headers = message.headers.iter().filter(|header| named.contains(&&*header.name));
    (headers.map(|header| header.value.clone()).collect(), message.key.clone(), message.topic.clone())
}

impl Broker {
    /// Every repeat is of the same identity.
    fn take(&mut self, (seq, message): &(u64, Message)) {
        let identity = identity(message);
        assert_eq!(identity.0.len(), 4, "a record without an identity");
        let (known, times) = self.taken.entry(*seq).or_insert_with(|| (identity.clone(), 0));
        assert_eq!(*known, identity, "entry {seq} was published under another identity");
        *times += 1;
    }
}

impl World {
    /// What of a parcel arrives, and whether its sender hears of it.
    pub(super) fn take_in(&mut self, parcel: &Records) -> Sent {
        let troubled = self.chance(self.faults.sink);
        let messages = &parcel.messages;
        let part = if troubled { self.rng.random_range(0..=messages.len()) } else { messages.len() };
        messages.iter().take(part).for_each(|message| self.broker.take(message));
        if self.chance(self.faults.twice) {
            messages.iter().take(part).for_each(|message| self.broker.take(message));
        }
        if troubled { Sent::NoAnswer } else { Sent::Acknowledged }
    }
}
