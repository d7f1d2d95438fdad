//! Who is who: a node id is a key, an incarnation is a data directory.
//!
//! A voter that lost its data directory has forgotten its votes and its log; if
//! it took part again under its old id, acknowledged writes could be lost. So
//! each node keeps, durably, the first incarnation it saw of every member, and
//! before any Raft traffic both sides exchange a [`Hello`]. Who shows up under
//! a known id with another incarnation is refused, and learns it, whichever
//! side spoke first.

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

/// What this node knows of the others.
pub(super) struct Peers {
    node: NodeId,
    store: Store,
    tree: Tree,
    session: Mutex<Session>,
    /// One first meeting at a time.
    recording: tokio::sync::Mutex<()>,
    failure: Arc<watch::Sender<Option<Error>>>,
}

#[derive(Default)]
struct Session {
    /// On record, durably.
    known: BTreeMap<NodeId, u128>,
    /// Heard since this process started, and as on record.
    greeted: BTreeSet<NodeId>,
}

impl Peers {
    pub fn open(store: &Store, node: NodeId, failure: Arc<watch::Sender<Option<Error>>>) -> Result<Self, Error> {
        let tree = store.tree("peers")?;
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
        })
    }

    pub fn is_greeted(&self, peer: NodeId) -> bool {
        self.session().greeted.contains(&peer)
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
        Hello { version: VERSION, node: self.node, incarnation: self.store.incarnation(), known }
    }

    /// Takes in what `peer` says of itself and of us; `Ok` if both agree with what is on record.
    async fn learn(&self, peer: NodeId, hello: &Hello) -> Result<(), Error> {
        if hello.version != VERSION {
            return Err(Error::Setup(format!("peer {peer} speaks version {} of the protocol", hello.version)));
        }
        if hello.node != peer {
            return Err(Error::Setup(format!("peer {peer} says it is {}", hello.node)));
        }
        if hello.known.is_some_and(|known| known != self.store.incarnation()) {
            return Err(self.amnesiac(peer));
        }
        self.record(peer, hello.incarnation).await?;
        self.session().greeted.insert(peer);
        Ok(())
    }

    async fn record(&self, peer: NodeId, incarnation: u128) -> Result<(), Error> {
        let _one = self.recording.lock().await;
        let known = self.session().known.get(&peer).copied();
        match known {
            Some(known) if known == incarnation => Ok(()),
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

    fn amnesiac(&self, peer: NodeId) -> Error {
        let error = Error::Amnesiac(format!(
            "this node's identity {} was seen by {peer} with another data directory; an amnesiac voter can lose \
             acknowledged writes. Only the very directory it had may be put back, never an older copy. Changing members \
             is not available yet; the others go on without this node",
            self.node
        ));
        fail(&self.failure, error.clone());
        error
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
