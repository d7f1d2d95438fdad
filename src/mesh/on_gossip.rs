//! What the event loop does with gossip, out and in.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libp2p::gossipsub::{MessageAcceptance, PublishError, TopicHash};
use tokio::sync::mpsc;
use tracing::debug;

use super::admission::Admission;
use super::event_loop::{EventLoop, Outgoing};
use super::gossip::{Gossip, Judged, SHUNNED};
use super::identity::from_libp2p;
use super::shared::count;
use super::{Audience, Topic};
use crate::clock;
use crate::domain::PeerId;

/// Messages that wait until somebody subscribes. Beyond this the oldest is dropped.
const UNSENT_MAX: usize = 256;
const UNSENT_TRIES: u32 = 12;
const UNSENT_PAUSE: Duration = Duration::from_millis(100);

/// A message that nobody was there to hear.
pub(super) struct Unsent {
    message: Outgoing,
    tries: u32,
    at: Instant,
}

impl EventLoop {
    pub(super) fn publish_unsent(&mut self, now: Instant) {
        for _ in 0..self.unsent.len() {
            match self.unsent.pop_front() {
                Some(unsent) if unsent.at <= now => self.publish(unsent.message, unsent.tries),
                Some(unsent) => self.unsent.push_back(unsent),
                None => break,
            }
        }
    }

    pub(super) fn copy_scores(&mut self) {
        let Some(gossip) = self.swarm.behaviour().gossip.as_ref() else { return };
        for topic in Topic::ALL {
            let peers = gossip.mesh_peers(&self.topics.of(topic).hash()).count() as u64;
            self.shared.topic(topic).mesh_peers.store(peers, Ordering::Relaxed);
        }
        for peer in self.swarm.connected_peers() {
            if let (Some(score), Some(id)) = (gossip.peer_score(peer), from_libp2p(peer)) {
                self.shared.update(id, |record| record.gossip_score = score);
            }
        }
    }

    /// Publishes now, or later when there is nobody yet to publish to.
    pub(super) fn publish(&mut self, mut message: Outgoing, tries: u32) {
        let name = self.topics.part(message.topic, message.audience).hash();
        let counters = self.shared.topic(message.topic);
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else { return };
        match gossip.publish(name, message.body.to_vec()) {
            Ok(_) => {
                count(&counters.messages_out, 1);
                count(&counters.bytes_out, message.body.len());
            }
            Err(PublishError::Duplicate) => {}
            // Perhaps somebody in between knows the way.
            Err(PublishError::NoPeersSubscribedToTopic) if matches!(message.audience, Audience::One(_)) => {
                message.audience = Audience::Everyone;
                self.publish(message, tries);
            }
            // Other failures come after gossip has noted the message: it would take a second try for a repetition.
            Err(PublishError::NoPeersSubscribedToTopic)
                if tries < UNSENT_TRIES && message.audience == Audience::Everyone =>
            {
                if self.unsent.len() >= UNSENT_MAX {
                    self.unsent.pop_front();
                    count(&counters.dropped, 1);
                }
                let at = clock::instant() + UNSENT_PAUSE;
                self.unsent.push_back(Unsent { message, tries: tries + 1, at });
            }
            Err(error) => {
                count(&counters.dropped, 1);
                debug!(topic = message.topic.name(), %error, "message not published");
            }
        }
    }

    pub(super) fn on_judged(&mut self, judged: Judged) {
        let counters = self.shared.topic(judged.topic);
        match judged.acceptance {
            MessageAcceptance::Accept => {}
            MessageAcceptance::Ignore => count(&counters.ignored, 1),
            MessageAcceptance::Reject => {
                count(&counters.rejected, 1);
                if let Some(peer) = from_libp2p(&judged.from) {
                    self.offend(peer, "invalid_gossip");
                }
            }
        }
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else { return };
        gossip.report_message_validation_result(&judged.id, &judged.from, judged.acceptance);
        let rejected = judged.acceptance == MessageAcceptance::Reject;
        let score = gossip.peer_score(&judged.from).filter(|_| rejected);
        if let (Some(peer), Some(score)) = (from_libp2p(&judged.from), score) {
            self.shun(peer, score);
        }
    }

    /// Gossip ignores a peer that it thinks little enough of, but it still reads and verifies all that the peer says, and
    /// thinks better of it within seconds. Who got there by what is invalid is cut off.
    fn shun(&mut self, peer: PeerId, score: f64) {
        self.shared.update(peer, |record| record.gossip_score = score);
        if score < SHUNNED && !self.shared.is_persistent(peer) {
            self.block(peer);
        }
    }

    pub(super) fn topic(&self, hash: &TopicHash) -> Option<Topic> {
        self.topics.find(hash)
    }

    pub(super) fn gate(&mut self, topic: Topic, source: PeerId, from: &libp2p::PeerId) -> Admission {
        self.gate.admit(&self.shared, topic, source, from_libp2p(from), clock::instant())
    }

    /// Hands a message to the inbox; false if it is full.
    pub(super) fn hand_out(&mut self, gossip: impl FnOnce(mpsc::Sender<Judged>) -> Gossip) -> bool {
        match self.gossip.try_reserve() {
            Ok(slot) => {
                slot.send(gossip(self.verdicts.clone()));
                true
            }
            Err(_) => false,
        }
    }
}
