//! The keys about who is a member: at first, by joining, and when a voter dies.

use super::schema::{EMPTY, Key, OFF, flag, hidden, integer, list, word};
use super::text;

pub(super) const INITIAL_MEMBERS: Key = list(
    "cluster.initial_members",
    text::peer_multiaddr,
    &[],
    "The voters of a new cluster, this node among them, the same list on all: multiaddrs with /p2p/\n\
     (`ciro-coordinator identity` prints a node's). Empty: this node alone. Ignored once a cluster exists.",
);

pub(super) const JOIN: Key = list(
    "cluster.join",
    text::peer_multiaddr,
    &[],
    "A node that is not a member yet asks these members to be admitted: multiaddrs with /p2p/. Ignored by members.",
);

pub(super) const INVITATION: Key = hidden(word(
    "cluster.invitation",
    text::invitation,
    EMPTY,
    "What `ciro-coordinator cluster invite` printed. Keep it out of the file: set CIRO__CLUSTER__INVITATION instead.",
));

pub(super) const INVITATION_FILE: Key = word("cluster.invitation_file", text::any, EMPTY, "Or a file that holds it.");

pub(super) const AUTOPILOT: Key =
    flag("cluster.autopilot", OFF, "The leader lets a learner that has caught up vote in place of a dead voter.");

pub(super) const AUTOPILOT_AFTER_SECS: Key =
    integer("cluster.autopilot_after_secs", 5, 86_400, 60, "How long a voter must have been silent for that.");
