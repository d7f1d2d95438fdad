//! Who is who: a node id is a key, an incarnation is a data directory.
//!
//! A voter that lost its data directory has forgotten its votes and its log; if
//! it took part again under its old id, acknowledged writes could be lost. So
//! each node keeps, durably, the first incarnation it saw of every member, and
//! before any Raft traffic both sides exchange a [`Hello`]. Who shows up under
//! a known id with another incarnation is refused, and learns it, whichever
//! side spoke first.
//!
//! A member that was given up in a recovery (see [`super::offline`]) is on record
//! with [`DISMISSED`] in place of its incarnation. It is no member here, but is
//! still told, so that it stops instead of going on with others like it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::NodeId;
use crate::mesh::Lane;
use crate::storage::{Store, Tree};

use super::Error;
use super::core::fail;
use super::frames::{self, Hello, VERSION};
use super::network::{Failure, Transport};

/// How a node that lost its data comes back.
pub(super) const WAY_OUT: &str = "remove this identity with `ciro-coordinator cluster remove`, delete its key file for \
                                  a new one, and let the node join with a fresh invitation (`cluster invite`)";
/// In place of an incarnation: that member was given up.
const DISMISSED: u128 = u128::MAX;

const TREE: &str = "peers";

/// Puts on record that these are members no more. Not durable before the store's next barrier.
pub(super) fn dismiss(store: &Store, members: impl Iterator<Item = NodeId>) -> Result<(), Error> {
    let tree = store.tree(TREE)?;
    for member in members {
        tree.put(&member.0, &DISMISSED.to_be_bytes())?;
    }
    Ok(())
}

/// What this node knows of the others.
pub(super) struct Peers {
    node: NodeId,
    store: Store,
    tree: Tree,
    session: Mutex<Session>,
    /// One first meeting at a time.
    recording: tokio::sync::Mutex<()>,
    failure: Arc<watch::Sender<Option<Error>>>,
    newest_level: u32,
}

#[derive(Default)]
struct Session {
    /// On record, durably.
    known: BTreeMap<NodeId, u128>,
    /// Heard since this process started, and as on record.
    greeted: BTreeSet<NodeId>,
    /// The newest feature levels that others know, as they said last.
    levels: BTreeMap<NodeId, u32>,
}

impl Peers {
    pub fn open(
        store: &Store,
        node: NodeId,
        newest_level: u32,
        failure: Arc<watch::Sender<Option<Error>>>,
    ) -> Result<Self, Error> {
        let tree = store.tree(TREE)?;
        let mut session = Session::default();
        for pair in tree.range(&[], None) {
            let (key, value) = pair?;
            if let (Ok(id), Ok(incarnation)) = (<[u8; 32]>::try_from(&*key), <[u8; 16]>::try_from(&*value)) {
                session.known.insert(crate::domain::PeerId(id), u128::from_be_bytes(incarnation));
            }
        }
        Ok(Self {
            node,
            store: store.clone(),
            tree,
            session: Mutex::new(session),
            recording: Default::default(),
            failure,
            newest_level,
        })
    }

    /// The data directory `peer` is known with.
    pub fn known(&self, peer: NodeId) -> Option<u128> {
        self.session().known.get(&peer).copied().filter(|known| *known != DISMISSED)
    }

    pub fn is_greeted(&self, peer: NodeId) -> bool {
        self.session().greeted.contains(&peer)
    }

    /// The newest feature level that `peer` knows; `None`: it said no hello since this process started.
    pub fn level_of(&self, peer: NodeId) -> Option<u32> {
        self.session().levels.get(&peer).copied()
    }

    /// Asks anew, and does not believe what was said before.
    pub fn forget_level(&self, peer: NodeId) {
        let mut session = self.session();
        session.greeted.remove(&peer);
        session.levels.remove(&peer);
    }

    /// Members that were given up: they are to be told if they come back.
    pub fn dismissed(&self) -> Vec<NodeId> {
        let session = self.session();
        session.known.iter().filter(|(_, known)| **known == DISMISSED).map(|(peer, _)| *peer).collect()
    }

    pub fn is_dismissed(&self, peer: NodeId) -> bool {
        self.session().known.get(&peer) == Some(&DISMISSED)
    }

    /// The next request says hello first.
    pub fn forget(&self, peer: NodeId) {
        self.session().greeted.remove(&peer);
    }

    /// Exchanges hellos with `peer`, unless done.
    pub async fn greet(&self, transport: &dyn Transport, peer: NodeId, limit: Duration) -> Result<(), Failure> {
        if self.is_greeted(peer) {
            return Ok(());
        }
        let not_sent = |error: std::io::Error| Failure::NotSent(error.to_string());
        let body = frames::request(&self.hello(peer)).map_err(not_sent)?;
        // Whatever comes of a hello, what was to follow has not been sent.
        let sent = transport.request(peer, Lane::Control, body, limit).await;
        let answer = sent.map_err(|error| Failure::NotSent(format!("say hello: {error}")))?;
        let hello = frames::read_answer::<Hello>(&answer).map_err(not_sent)?;
        self.learn(peer, &hello).await.map_err(|error| Failure::NotSent(error.to_string()))
    }

    /// Answers a hello. The answer tells the other side what we have on record.
    pub async fn answer(&self, peer: NodeId, hello: &Hello) -> Result<Hello, Error> {
        match self.learn(peer, hello).await {
            Err(error @ Error::Storage(_)) => Err(error),
            // Refused or not, it learns from the answer why.
            _ => Ok(self.hello(peer)),
        }
    }

    fn hello(&self, peer: NodeId) -> Hello {
        let known = self.session().known.get(&peer).copied();
        let (incarnation, newest_level) = (self.store.incarnation(), self.newest_level);
        Hello { version: VERSION, node: self.node, incarnation, known, newest_level }
    }

    /// Takes in what `peer` says of itself and of us; `Ok` if both agree with what is on record.
    async fn learn(&self, peer: NodeId, hello: &Hello) -> Result<(), Error> {
        if hello.version != VERSION {
            return Err(Error::Setup(format!("peer {peer} speaks version {} of the protocol", hello.version)));
        }
        if hello.node != peer {
            return Err(Error::Setup(format!("peer {peer} says it is {}", hello.node)));
        }
        match hello.known {
            Some(DISMISSED) => return Err(self.given_up(peer)),
            Some(known) if known != self.store.incarnation() => return Err(self.amnesiac(peer)),
            _ => {}
        }
        self.record(peer, hello.incarnation).await?;
        let mut session = self.session();
        session.greeted.insert(peer);
        session.levels.insert(peer, hello.newest_level);
        Ok(())
    }

    async fn record(&self, peer: NodeId, incarnation: u128) -> Result<(), Error> {
        let _one = self.recording.lock().await;
        let known = self.session().known.get(&peer).copied();
        match known {
            Some(known) if known == incarnation => Ok(()),
            Some(DISMISSED) => Err(Error::Setup(format!("peer {peer} was given up when this cluster was recovered"))),
            Some(_) => {
                self.session().greeted.remove(&peer);
                tracing::warn!(
                    %peer,
                    "member refused: its data directory is not the one it had; only that very directory may be put back, never an older copy; the others go on without it"
                );
                Err(Error::Setup(format!("peer {peer} lost its data directory")))
            }
            None => {
                self.tree.put(&peer.0, &incarnation.to_be_bytes())?;
                self.store.barrier().await?;
                self.session().known.insert(peer, incarnation);
                Ok(())
            }
        }
    }

    fn given_up(&self, peer: NodeId) -> Error {
        let error = Error::Amnesiac(format!(
            "the cluster was recovered on {peer} without this node {}, which is a member no more: what only this node \
             has is not in the cluster. Keep its data directory if you want to look for something, and start the node \
             with a new key and a new data directory",
            self.node
        ));
        fail(&self.failure, error.clone());
        error
    }

    fn amnesiac(&self, peer: NodeId) -> Error {
        let error = Error::Amnesiac(format!(
            "this node's identity {} was seen by {peer} with another data directory; an amnesiac voter can lose \
             acknowledged writes. Only the very directory it had may be put back, never an older copy. Else: {WAY_OUT}",
            self.node
        ));
        fail(&self.failure, error.clone());
        error
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
