//! What is done to a store while no node runs on it: beginning a cluster with a
//! state that comes from elsewhere, and going on alone when the others are lost.
//!
//! Both end the same way: the store holds a snapshot at one log position, with the
//! members of the new cluster in it, and a log that begins behind it. To Raft that
//! is a member whose log was compacted up to there.
//!
//! Why that is safe for a restored backup:
//!
//! * Every node of the new cluster begins with the same snapshot, at the same
//!   position, with the same members. That is as if the same prefix of a log had
//!   been committed on all of them.
//! * The vote is of the snapshot's term and for nobody: nobody can be elected in
//!   that term, so no two different entries can have the snapshot's position.
//! * The identities are not those of the old cluster, so its members neither hear
//!   nor count the new ones, and the other way round.
//!
//! And for a survivor, whose log goes on: all that it has is applied, committed or
//! not. What only the lost members had is lost; that is what is decided here. The
//! new term is far above those that the old members can have reached, and the old
//! members are on record as dismissed, see [`super::identity`]: one that comes back
//! is told so, and stops. Two of three old members that come back without ever
//! reaching the survivor can not be told, and are a majority of the old cluster.
//!
//! Order on disk: a mark that a recovery is under way, vote and record of the
//! dismissed, snapshot, positions of the log without the mark. A node does not
//! start with the mark, since it would end those that it has on record as
//! dismissed, and still be no cluster of its own. The recovery is begun again.

use std::collections::{BTreeMap, BTreeSet};

use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

use crate::domain::archive::Segment;
use crate::domain::level::NEWEST;
use crate::domain::restore::Sinks;
use crate::domain::{Digest, NodeId, State, Timestamp};
use crate::storage::{Batch, Store};
use crate::tasks::Tasks;

use super::archive::{self, Files};
use super::boot::{initial_members, open_files};
use super::codec::encode;
use super::identity;
use super::log_store::{self, LogStore};
use super::snapshot::Directory;
use super::state_machine::Machine;
use super::types::{LogId, LogTerm, Membership, SnapshotMeta, Vote};
use super::{Error, Member};

/// Entries that are applied at a time.
const SLICE: u64 = 1_024;

/// Where a node looks for its segments of the archive.
pub struct Segments(Files);

impl Segments {
    /// Blocking.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn open(store: &Store) -> Result<Self, Error> {
        Files::open(store.file_dir().join(archive::DIR)).map(Self).map_err(|error| unwritable(&error))
    }

    /// Puts a segment there, durably. Blocking.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn keep(&self, segment: &Segment, bytes: &[u8]) -> Result<(), Error> {
        self.0.write(segment, bytes).map_err(|error| unwritable(&error))
    }
}

/// Puts `state` into a new store, as the common beginning of `members`: `/…/p2p/<id>` multiaddrs, `node` among them.
///
/// # Errors
///
/// [`Error::Setup`]: the store is not new, or the members are none. Else the disk's.
pub async fn found(store: &Store, node: NodeId, members: &[String], state: &State) -> Result<(), Error> {
    let members = initial_members(members)?;
    if !members.contains_key(&node) {
        return Err(Error::Setup(format!("this node {node} is not among the members")));
    }
    let tasks = Tasks::new();
    let log = LogStore::open(store, &tasks).map_err(|error| unreadable(&error))?;
    let directory = Directory::open(&store.file_dir().join("snapshots")).map_err(|error| unwritable(&error))?;
    let used = !log.is_pristine().map_err(|error| unreadable(&error))?
        || directory.newest_len().map_err(|error| unreadable(&error))? > 0;
    tasks.cancel();
    if used {
        return Err(Error::Setup("the store is in use: a cluster is begun in a new one".into()));
    }
    vote(store, Vote::new(state.applied_term(), NodeId::default()))?;
    let mut state = state.clone();
    state.forget_members();
    settle(store, &directory, state, members).await
}

fn vote(store: &Store, vote: Vote) -> Result<(), Error> {
    let bytes = encode(&vote).map_err(|error| unwritable(&error))?;
    Ok(store.tree(log_store::META)?.put(log_store::VOTE, &bytes)?)
}

/// Writes the snapshot, then that the log begins behind it.
async fn settle(
    store: &Store,
    directory: &Directory,
    mut state: State,
    members: BTreeMap<NodeId, String>,
) -> Result<(), Error> {
    store.barrier().await?;
    let position = LogId::new(LogTerm::new(state.applied_term()), state.applied());
    let voters: BTreeSet<NodeId> = members.keys().copied().collect();
    state.reseat(&voters, &members);
    let membership = openraft::Membership::new(vec![voters], members)
        .map_err(|error| Error::Setup(format!("the members are none: {error}")))?;
    let meta =
        SnapshotMeta { last_log_id: Some(position), last_membership: Membership::new(Some(position), membership) };
    directory.write(&meta, &state).map_err(|error| unwritable(&error))?;
    let bytes = encode(&position).map_err(|error| unwritable(&error))?;
    let mut batch = Batch::default();
    batch.put(log_store::PURGED, &bytes);
    batch.put(log_store::COMMITTED, &bytes);
    batch.delete(log_store::RECOVERING);
    store.tree(log_store::META)?.apply(batch)?;
    Ok(store.barrier().await?)
}

/// What a survivor has.
#[derive(Clone, Debug)]
pub struct Findings {
    pub node: NodeId,
    pub term: u64,
    /// The highest term that it took part in.
    pub voted: u64,
    /// The last entry that it has.
    pub last: u64,
    /// It knows that entries up to here were committed; later ones may have been.
    pub committed: u64,
    /// Time of its last record.
    pub at: Timestamp,
    pub members: Vec<Member>,
    /// Jobs that were ever accepted, up to the last entry it has.
    pub jobs: u64,
    /// Those of them in entries of which it does not know that they were committed.
    pub jobs_uncommitted: u64,
}

/// A store whose log was read to its end.
pub struct Survivor {
    store: Store,
    machine: Machine,
    directory: Directory,
    findings: Findings,
}

/// Reads what is in a store of `node`. Changes nothing but what an opening does.
///
/// # Errors
///
/// [`Error::Setup`]: it is of no cluster, of one that needs no recovery, or damaged.
pub async fn survey(store: Store, node: NodeId) -> Result<Survivor, Error> {
    let tasks = Tasks::new();
    let read = read(&store, &tasks).await;
    tasks.cancel();
    let (machine, directory, progress) = read.map_err(|error| unreadable(&error))?;
    let membership = machine.membership().membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    if membership.get_node(&node).is_none() {
        return Err(Error::Setup(format!("{node} is no member of the cluster that its data are of")));
    }
    if voters == BTreeSet::from([node]) && !is_recovering(&store)? {
        return Err(Error::Setup(format!("{node} is the only voter already: start it")));
    }
    let member = |(id, address): (&NodeId, &String)| Member {
        id: *id,
        address: address.clone(),
        voter: voters.contains(id),
        matched: None,
        newest_level: None,
        silence: None,
        dead: false,
    };
    let members = membership.nodes().map(member).collect();
    let findings = machine.applied().read(|state| Findings {
        node,
        term: state.applied_term(),
        voted: progress.voted,
        last: state.applied(),
        committed: progress.committed,
        at: state.now(),
        members,
        jobs: state.submitted_total(),
        jobs_uncommitted: state.submitted_total().saturating_sub(progress.jobs_committed),
    });
    Ok(Survivor { store, machine, directory, findings })
}

struct Progress {
    voted: u64,
    committed: u64,
    jobs_committed: u64,
}

/// Applies the whole log, and notes how far it is known to be committed.
async fn read(store: &Store, tasks: &Tasks) -> std::io::Result<(Machine, Directory, Progress)> {
    let (mut log, mut machine, directory) = open_files(store, NEWEST, Default::default(), tasks)?;
    let voted = log.read_vote().await?.map_or(0, |vote| vote.leader_id.term);
    let known = log.read_committed().await?.map_or(0, |id| id.index);
    let end = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
    let mut next = machine.applied().read(State::applied) + 1;
    if log.is_pristine()? && next == 1 {
        return Err(std::io::Error::other("nothing was ever written here"));
    }
    let committed = known.max(next - 1);
    let mut jobs_committed = machine.applied().read(State::submitted_total);
    // The very first entry, of the members, has the number 0.
    if next == 1 && machine.is_blank() {
        next = 0;
    }
    while next < end {
        let entries = log.limited_get_log_entries(next, end.min(next + SLICE)).await?;
        for entry in entries {
            next = entry.log_id.index + 1;
            machine.apply_one(entry)?;
            if next == committed + 1 {
                jobs_committed = machine.applied().read(State::submitted_total);
            }
        }
    }
    Ok((machine, directory, Progress { voted, committed, jobs_committed }))
}

/// Whether a recovery of a store was begun and not ended. Blocking.
pub(super) fn is_recovering(store: &Store) -> Result<bool, Error> {
    Ok(store.tree(log_store::META)?.get(log_store::RECOVERING)?.is_some())
}

impl Survivor {
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Makes the node the only voter of a cluster that goes on with all it has. Returns where that begins.
    ///
    /// # Errors
    ///
    /// The disk's. Then it may be tried again.
    pub async fn recover(self) -> Result<(u64, u64), Error> {
        let Findings { node, voted, ref members, .. } = self.findings;
        let own = members.iter().find(|member| member.id == node).map(|member| member.address.clone());
        // What the log sealed is named by the snapshot.
        self.machine.archive().flush().map_err(|error| unwritable(&error))?;
        let state = self.machine.applied().read(State::clone).restored(&Sinks::new(), voted, Digest::default());
        let state = state.map_err(|error| Error::Setup(error.to_string()))?;
        self.begin(&state).await?;
        let members = BTreeMap::from([(node, own.unwrap_or_default())]);
        let place = (state.applied_term(), state.applied());
        settle(&self.store, &self.directory, state, members).await?;
        Ok(place)
    }

    /// Puts the others on record, after the mark that it is done for a recovery.
    pub(super) async fn begin(&self, state: &State) -> Result<(), Error> {
        let Findings { node, ref members, .. } = self.findings;
        self.store.tree(log_store::META)?.put(log_store::RECOVERING, b"")?;
        self.store.barrier().await?;
        vote(&self.store, Vote::new_committed(state.applied_term(), node))?;
        identity::dismiss(&self.store, members.iter().map(|member| member.id).filter(|id| *id != node))
    }
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::Setup(format!("read the log: {error}"))
}

fn unwritable(error: &std::io::Error) -> Error {
    Error::Setup(format!("write the store: {error}"))
}
