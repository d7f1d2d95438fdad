//! Gossip: settings, and messages with their verdicts.
//!
//! Every message is signed by its publisher (libp2p's strict mode), so a source
//! is as certain as a peer we are connected to. A message goes on to others
//! only after whoever reads the inbox accepted it.
//!
//! Announcements flow to workers, which connect to coordinators and not to each
//! other. Who announces therefore sends to all of its workers itself; with
//! gossipsub's usual mesh of six the seventh would hear of a job a heartbeat
//! later, when the auction is over. Other coordinators have a wide mesh for the
//! same reason: what they pass on is for workers that lost the announcer.
//!
//! Where a thousand workers are, most messages concern few: a round that asks
//! thirty of them is announced to a group, and a bid is for the leader. Such parts
//! of a topic are topics of their own on the network ([`Audience`]); nobody passes
//! them on.

use std::time::Duration;

use bytes::Bytes;
use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, Message, MessageAcceptance,
    MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams,
    TopicSubscriptionFilter, ValidationMode,
};
use libp2p::identity::Keypair;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Audience, Error, Footprint, Options, Role, Topic};
use crate::domain::PeerId;
use crate::wire;

/// Largest body we publish, in bytes.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// What signature, key and topic add to a body, at most.
const ENVELOPE: usize = 2 * 1024;

/// How long a message is known again: longer than any auction.
const REMEMBERED: Duration = Duration::from_secs(60);
const REMEMBERED_LIGHT: Duration = Duration::from_secs(10);

/// How long a message may wait for a peer that takes them slowly. What is older is late for any auction.
const QUEUED: Duration = Duration::from_secs(1);

/// A worker's heartbeats are worth more than that, late as they are: they say that it lives.
const QUEUED_WORKER: Duration = Duration::from_secs(5);

/// How often gossip looks after its meshes. A worker has no more than its coordinators, which send to it without one.
const UPKEEP: Duration = Duration::from_millis(500);
const UPKEEP_WORKER: Duration = Duration::from_secs(1);

/// Messages that wait for one peer. Beyond it they are dropped, and the peer counts as slow.
const QUEUED_MAX: usize = 1_024;

/// Workers that a coordinator passes on announcements of others to. Beyond this they hear from another.
const ANNOUNCE_FAN_OUT: usize = 1_024;

pub(super) type Behaviour = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<Known>>;

/// Topics that one peer may subscribe to. Nobody has a reason for more.
const SUBSCRIBED_MAX: usize = 8;

/// Takes note of subscriptions to our topics only.
pub(super) struct Known(Topics);

impl TopicSubscriptionFilter for Known {
    fn can_subscribe(&mut self, hash: &TopicHash) -> bool {
        self.0.find(hash).is_some()
    }
}

/// A gossip message with a valid signature by `source`. It is forwarded to
/// others only after `accept`; dropping it without a verdict ignores it.
pub struct Gossip {
    pub topic: Topic,
    pub source: PeerId,
    pub body: Bytes,
    pub verdict: Verdict,
}

/// The reader's say on a message.
pub struct Verdict {
    case: Option<Case>,
}

struct Case {
    judged: mpsc::Sender<Judged>,
    id: MessageId,
    from: libp2p::PeerId,
    topic: Topic,
}

/// A verdict on its way back to gossipsub.
pub(super) struct Judged {
    pub id: MessageId,
    /// The peer that passed the message to us.
    pub from: libp2p::PeerId,
    pub topic: Topic,
    pub acceptance: MessageAcceptance,
}

impl Verdict {
    pub(super) fn new(judged: mpsc::Sender<Judged>, id: MessageId, from: libp2p::PeerId, topic: Topic) -> Self {
        Self { case: Some(Case { judged, id, from, topic }) }
    }

    /// Valid: pass it on.
    pub fn accept(mut self) {
        self.judge(MessageAcceptance::Accept);
    }

    /// Stale, repeated or over its rate: do not pass it on.
    pub fn ignore(mut self) {
        self.judge(MessageAcceptance::Ignore);
    }

    /// Malformed or forged: do not pass it on, and lower the sender's score.
    pub fn reject(mut self) {
        self.judge(MessageAcceptance::Reject);
    }

    fn judge(&mut self, acceptance: MessageAcceptance) {
        if let Some(Case { judged, id, from, topic }) = self.case.take() {
            // When the queue is full the message is not passed on, as if ignored.
            let _ = judged.try_send(Judged { id, from, topic, acceptance });
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.judge(MessageAcceptance::Ignore);
    }
}

/// The names of the topics on one network.
#[derive(Clone)]
pub(super) struct Topics {
    all: [(Topic, IdentTopic); Topic::ALL.len()],
}

impl Topics {
    pub fn new(network: &str) -> Self {
        Self { all: Topic::ALL.map(|topic| (topic, IdentTopic::new(format!("/ciro/{network}/{}/1", topic.name())))) }
    }

    pub fn of(&self, topic: Topic) -> &IdentTopic {
        &self.all[topic as usize].1
    }

    /// The part of a topic that is for `audience`.
    pub fn part(&self, topic: Topic, audience: Audience) -> IdentTopic {
        let whole = self.of(topic);
        match audience {
            Audience::Everyone => whole.clone(),
            Audience::Group(group) => IdentTopic::new(format!("{whole}/{group}")),
            Audience::One(peer) => IdentTopic::new(format!("{whole}/{peer}")),
        }
    }

    /// The topic that something on the network is, or is part of.
    pub fn find(&self, hash: &TopicHash) -> Option<Topic> {
        let is_part = |topic: Topic, rest: &str| match (topic, rest.strip_prefix('/')) {
            (_, None) => rest.is_empty(),
            (Topic::Announcements, Some(group)) => (0..wire::GROUPS).any(|known| *group == known.to_string()),
            (Topic::Bids, Some(peer)) => peer.parse::<PeerId>().is_ok(),
            (Topic::Heartbeats, Some(_)) => false,
        };
        let name = hash.as_str();
        let found = self
            .all
            .iter()
            .find(|(topic, whole)| name.strip_prefix(whole.hash().as_str()).is_some_and(|rest| is_part(*topic, rest)));
        found.map(|(topic, _)| *topic)
    }

    /// What a peer of this role and name listens to.
    fn listened(&self, role: Role, me: PeerId) -> Vec<IdentTopic> {
        match role {
            Role::Coordinator => {
                let mut all: Vec<_> = self.all.iter().map(|(_, topic)| topic.clone()).collect();
                all.push(self.part(Topic::Bids, Audience::One(me)));
                all
            }
            Role::Worker => [Audience::Everyone, Audience::Group(wire::group(me))]
                .map(|part| self.part(Topic::Announcements, part))
                .into(),
        }
    }
}

/// Gossipsub, subscribed to what our role listens to.
pub(super) fn behaviour(
    key: &Keypair,
    me: PeerId,
    options: &Options,
    topics: &Topics,
    footprint: Footprint,
) -> Result<Behaviour, Error> {
    let setup = |error: &dyn std::fmt::Display| Error::Setup(format!("set gossip up: {error}"));
    let filter = MaxCountSubscriptionFilter {
        filter: Known(topics.clone()),
        max_subscribed_topics: SUBSCRIBED_MAX,
        max_subscriptions_per_request: 16,
    };
    let listened = topics.listened(options.role, me);
    let mut gossip = Behaviour::new_with_subscription_filter(
        MessageAuthenticity::Signed(key.clone()),
        config(options.role, topics, footprint).map_err(|error| setup(&error))?,
        filter,
    )
    .map_err(|error| setup(&error))?;
    let thresholds = PeerScoreThresholds { graylist_threshold: SHUNNED, ..PeerScoreThresholds::default() };
    gossip.with_peer_score(scores(&listened), thresholds).map_err(|error| setup(&error))?;
    for topic in &listened {
        gossip.subscribe(topic).map_err(|error| setup(&error))?;
    }
    Ok(gossip)
}

fn config(
    role: Role,
    topics: &Topics,
    footprint: Footprint,
) -> Result<gossipsub::Config, gossipsub::ConfigBuilderError> {
    let remembered = if footprint == Footprint::Light { REMEMBERED_LIGHT } else { REMEMBERED };
    let mut builder = ConfigBuilder::default();
    builder
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(BODY_MAX + ENVELOPE)
        .heartbeat_interval(if role == Role::Coordinator { UPKEEP } else { UPKEEP_WORKER })
        .heartbeat_initial_delay(Duration::from_millis(200))
        .duplicate_cache_time(remembered)
        .flood_publish(true)
        // A thousand workers would say so after each announcement, and nobody has a second copy on its way to them.
        .idontwant_message_size_threshold(usize::MAX)
        .publish_queue_duration(if role == Role::Coordinator { QUEUED } else { QUEUED_WORKER })
        .forward_queue_duration(QUEUED)
        .connection_handler_queue_len(QUEUED_MAX);
    if role == Role::Coordinator {
        let announcements = topics.of(Topic::Announcements).hash();
        builder
            .mesh_n_for_topic(ANNOUNCE_FAN_OUT / 2, announcements.clone())
            .mesh_n_low_for_topic(5, announcements.clone())
            .mesh_n_high_for_topic(ANNOUNCE_FAN_OUT, announcements.clone())
            .mesh_outbound_min_for_topic(0, announcements);
    }
    builder.build()
}

/// The same words by the same publisher are the same message, however often they are sent.
fn message_id(message: &Message) -> MessageId {
    let mut hash = Sha256::new();
    let source = message.source.map(libp2p::PeerId::to_bytes).unwrap_or_default();
    for part in [source.as_slice(), message.topic.as_str().as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(&message.data);
    MessageId::new(&hash.finalize())
}

/// A score below this, and nothing is taken from a peer: after three invalid messages in a moment.
pub(super) const SHUNNED: f64 = -80.0;

/// The library's defaults expect a busy topic and one peer per address; ours
/// are quiet at times, and a test host or a NAT holds many workers. What is
/// invalid weighs heavily, what is valid earns little to spend on it.
fn scores(listened: &[IdentTopic]) -> PeerScoreParams {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 100.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.9,
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: listened.iter().map(|listened| (listened.hash(), topic.clone())).collect(),
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_threshold: 6.0,
        retain_score: Duration::from_secs(600),
        ..PeerScoreParams::default()
    }
}
