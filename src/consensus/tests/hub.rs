//! The mesh as a table of nodes: requests are calls, until a test interferes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::consensus::Raft;
use crate::consensus::network::Transport;
use crate::domain::NodeId;
use crate::mesh::{Error, Lane};

#[derive(Clone, Default)]
pub struct Hub {
    wires: Arc<Mutex<Wires>>,
    paused: Arc<watch::Sender<BTreeSet<NodeId>>>,
}

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<NodeId, Arc<Raft>>,
    members: BTreeMap<NodeId, BTreeSet<NodeId>>,
    isolated: BTreeSet<NodeId>,
    /// Cut off from those that are not among them.
    side: BTreeSet<NodeId>,
    deaf: BTreeSet<Lane>,
    delay: Duration,
    carried: BTreeMap<Lane, u64>,
    penalties: BTreeMap<NodeId, u64>,
    /// By receiver: the newest request on the lane of the log, and whose.
    appends: BTreeMap<NodeId, (NodeId, Bytes)>,
}

impl Wires {
    fn cut(&self, a: NodeId, b: NodeId) -> bool {
        self.isolated.contains(&a) || self.isolated.contains(&b) || self.side.contains(&a) != self.side.contains(&b)
    }
}

impl Hub {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plug(&self, node: NodeId, raft: Arc<Raft>) {
        self.wires().nodes.insert(node, raft);
    }

    pub fn unplug(&self, node: NodeId) {
        self.wires().nodes.remove(&node);
    }

    /// Nothing gets from or to these nodes.
    pub fn isolate(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.wires().isolated.extend(nodes);
    }

    /// Nothing gets from these nodes to the others, or back.
    pub fn split(&self, side: impl IntoIterator<Item = NodeId>) {
        self.wires().side = side.into_iter().collect();
    }

    pub fn heal(&self) {
        let mut wires = self.wires();
        wires.side.clear();
        wires.isolated.clear();
        wires.deaf.clear();
        wires.delay = Duration::ZERO;
        drop(wires);
        self.paused.send_replace(BTreeSet::new());
    }

    /// Requests on this lane arrive and take effect; their answers are lost.
    pub fn lose_answers(&self, lane: Lane) {
        self.wires().deaf.insert(lane);
    }

    pub fn delay(&self, delay: Duration) {
        self.wires().delay = delay;
    }

    /// Requests from and to this node hang until the hub is healed.
    pub fn pause(&self, node: NodeId) {
        self.paused.send_modify(|paused| {
            paused.insert(node);
        });
    }

    /// Requests carried on this lane so far.
    pub fn carried(&self, lane: Lane) -> u64 {
        self.wires().carried.get(&lane).copied().unwrap_or(0)
    }

    /// How often `peer` asked for what it has no right to.
    pub fn penalties(&self, peer: NodeId) -> u64 {
        self.wires().penalties.get(&peer).copied().unwrap_or(0)
    }

    /// The newest request of a leader to this node arrives once more, as what lay in a link that was cut does.
    pub async fn repeat_append(&self, node: NodeId) {
        let (raft, leader, body) = {
            let wires = self.wires();
            let (leader, body) = wires.appends[&node].clone();
            (wires.nodes[&node].clone(), leader, body)
        };
        raft.serve(leader, Lane::Append, body).await.unwrap();
    }

    /// Whom `node` would let use the member lanes.
    pub fn members_of(&self, node: NodeId) -> BTreeSet<NodeId> {
        self.wires().members.get(&node).cloned().unwrap_or_default()
    }

    pub(in crate::consensus) fn wire(&self, me: NodeId) -> Arc<dyn Transport> {
        Arc::new(Wire { hub: self.clone(), me })
    }

    fn target(&self, me: NodeId, peer: NodeId, lane: Lane) -> Result<(Arc<Raft>, Duration), Error> {
        let mut wires = self.wires();
        if wires.cut(me, peer) {
            return Err(Error::Unreachable(peer));
        }
        let raft = wires.nodes.get(&peer).cloned().ok_or(Error::Unreachable(peer))?;
        *wires.carried.entry(lane).or_default() += 1;
        Ok((raft, wires.delay))
    }

    fn answer_lost(&self, me: NodeId, peer: NodeId, lane: Lane) -> bool {
        let wires = self.wires();
        wires.deaf.contains(&lane) || wires.cut(me, peer)
    }

    async fn unpaused(&self, me: NodeId, peer: NodeId) {
        let mut paused = self.paused.subscribe();
        let _ = paused.wait_for(|paused| !paused.contains(&me) && !paused.contains(&peer)).await;
    }
}

struct Wire {
    hub: Hub,
    me: NodeId,
}

impl Transport for Wire {
    fn id(&self) -> NodeId {
        self.me
    }

    fn request(&self, peer: NodeId, lane: Lane, body: Bytes, limit: Duration) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(async move {
            let (raft, delay) = self.hub.target(self.me, peer, lane)?;
            if lane == Lane::Append {
                self.hub.wires().appends.insert(peer, (self.me, body.clone()));
            }
            let carried = async {
                self.hub.unpaused(self.me, peer).await;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let served = raft.serve(self.me, lane, body).await;
                self.hub.unpaused(self.me, peer).await;
                if self.hub.answer_lost(self.me, peer, lane) {
                    return Err(Error::Lost(peer));
                }
                served.map_err(|error| Error::Refused { peer, reason: error.to_string() })
            };
            tokio::time::timeout(limit, carried).await.map_err(|_| Error::Timeout(peer))?
        })
    }

    fn set_members(&self, members: BTreeSet<NodeId>) {
        self.hub.wires().members.insert(self.me, members);
    }

    fn addresses(&self) -> Vec<String> {
        vec![format!("/memory/{}/p2p/{}", self.me.0[0], self.me)]
    }

    fn learn(&self, _addresses: Vec<(NodeId, String)>) {}

    fn penalise(&self, peer: NodeId, _reason: &'static str) {
        *self.hub.wires().penalties.entry(peer).or_default() += 1;
    }
}
