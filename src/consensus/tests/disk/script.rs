//! What Raft does to its store, from a seed: votes, entries of all sizes,
//! conflicts, snapshots, restarts. And what must be there after each step.
//! Half of the jobs end at once, and most of them leave memory: snapshots name segments.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::storage::{
    IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _,
};
use openraft::vote::RaftLeaderId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{OWNER, open_store};
use crate::clock;
use crate::consensus::boot;
use crate::consensus::codec::{Blob, Encoded, Proposal, encode, record};
use crate::consensus::log_store::LogStore;
use crate::consensus::state_machine::Machine;
use crate::consensus::tests::cluster::{job, submission_of};
use crate::consensus::types::{Entry, LogId, Vote};
use crate::domain::archive::Retain;
use crate::domain::{Command, Timestamp};
use crate::storage::Store;
use crate::tasks::Tasks;

/// Entries kept behind a snapshot.
const KEPT: u64 = 4;

#[derive(Clone, Debug)]
pub enum Op {
    Vote {
        term: u64,
    },
    Append {
        entries: Vec<Plan>,
    },
    /// Entries from `from` on conflict with another leader's.
    Truncate {
        from: u64,
    },
    /// The state up to `index` becomes a snapshot, and what lies well before it goes.
    Snapshot {
        index: u64,
    },
    Restart,
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    index: u64,
    term: u64,
    salt: u64,
    size: usize,
}

/// What can be read of a store. Entries by what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logical {
    pub vote: Option<u64>,
    pub purged: Option<u64>,
    pub entries: BTreeMap<u64, u32>,
    /// Segments of the archive that the snapshot names and this disk lacks.
    pub missing: usize,
}

/// Tells entries apart.
pub fn print_of(entry: &Entry) -> u32 {
    crc32fast::hash(&encode(entry).unwrap())
}

impl Plan {
    fn entry(&self) -> Entry {
        let mut commands = vec![submission_of(self.salt, self.size)];
        if self.salt.is_multiple_of(2) {
            commands.push(Command::Retain(Retain::Hold { hot: 2, batch: 2 }));
            commands.push(Command::Cancel { job: job(self.salt), reason: String::new() });
        }
        let part = |command: &Command| Encoded { count: 1, bytes: Blob(encode(command).unwrap().into()) };
        let parts: Vec<Encoded> = commands.iter().map(part).collect();
        let data = Proposal(Blob(
            record(crate::domain::level::FIRST, Timestamp(1_000_000 + self.index), parts.iter()).unwrap(),
        ));
        Entry { log_id: log_id(self.term, self.index), payload: EntryPayload::Normal(data) }
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, OWNER).to_committed(), index)
}

/// Steps of one life after the other. One of the entries has `largest` bytes.
pub fn script(seed: u64, steps: usize, largest: usize) -> Vec<Op> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut term, mut next, mut applied, mut ops) = (1, 0, 0, vec![Op::Vote { term: 1 }]);
    while ops.len() < steps {
        let large = ops.len() == steps / 2;
        let op = match rng.random_range(0..100) {
            _ if large => append(&mut rng, term, &mut next, Some(largest)),
            0..12 => {
                term += 1;
                Op::Vote { term }
            }
            12..18 if next > applied + 2 => {
                next = rng.random_range(applied + 1..next);
                ops.push(Op::Truncate { from: next });
                term += 1;
                Op::Vote { term }
            }
            18..23 if next > applied + 8 => {
                applied = next - rng.random_range(1..4);
                Op::Snapshot { index: applied }
            }
            23..26 => Op::Restart,
            _ => append(&mut rng, term, &mut next, None),
        };
        ops.push(op);
    }
    ops
}

fn append(rng: &mut StdRng, term: u64, next: &mut u64, size: Option<usize>) -> Op {
    const SIZES: [usize; 10] = [0, 300, 300, 300, 300, 6 << 10, 6 << 10, 16 << 10, 64 << 10, 300 << 10];
    let count = if size.is_some() { 1 } else { rng.random_range(1..6) };
    let plan = |_| {
        let size = size.unwrap_or_else(|| SIZES[rng.random_range(0..SIZES.len())]);
        *next += 1;
        Plan { index: *next - 1, term, salt: rng.random(), size }
    };
    Op::Append { entries: (0..count).map(plan).collect() }
}

/// What must be there after each step; the first of them before any.
pub fn models(ops: &[Op]) -> Vec<Logical> {
    let mut now = Logical::default();
    let mut all = vec![now.clone()];
    for op in ops {
        match op {
            Op::Vote { term } => now.vote = Some(*term),
            Op::Append { entries } => {
                now.entries.extend(entries.iter().map(|plan| (plan.index, print_of(&plan.entry()))))
            }
            Op::Truncate { from } => drop(now.entries.split_off(from)),
            Op::Snapshot { index } if purge_to(*index) > now.purged => {
                now.purged = purge_to(*index);
                now.entries = now.entries.split_off(&now.purged.map_or(0, |purged| purged + 1));
            }
            Op::Snapshot { .. } | Op::Restart => {}
        }
        all.push(now.clone());
    }
    all
}

fn purge_to(snapshot: u64) -> Option<u64> {
    snapshot.checked_sub(KEPT)
}

/// Does it, on a real store. `acked(n)`: step `n`, counted from 1, and all before are durable.
pub async fn run(dir: &Path, ops: &[Op], acked: Arc<dyn Fn(usize) + Send + Sync>) {
    let mut life = Life::begin(dir).await;
    for (op, number) in ops.iter().zip(1..) {
        if matches!(op, Op::Restart) {
            life.end().await;
            life = Life::begin(dir).await;
            continue;
        }
        life.step(op).await;
        let told = acked.clone();
        life.store.on_durable(move |result| {
            result.unwrap();
            told(number);
        });
        // Raft does not wait for one append before it begins the next.
        if number % 3 == 0 {
            life.store.barrier().await.unwrap();
        }
    }
    life.end().await;
}

struct Life {
    store: Store,
    log: LogStore,
    machine: Machine,
    tasks: Tasks,
}

impl Life {
    async fn begin(dir: &Path) -> Self {
        let deadline = clock::instant() + Duration::from_secs(20);
        let store = loop {
            match open_store(dir) {
                Ok(store) => break store,
                Err(error) => assert!(clock::instant() < deadline, "open again: {error}"),
            }
            tokio::task::yield_now().await; // the last life is still letting go
        };
        let tasks = Tasks::new();
        let (log, machine, _) =
            boot::open_files(&store, crate::domain::level::NEWEST, Default::default(), &tasks).unwrap();
        Self { store, log, machine, tasks }
    }

    async fn end(self) {
        self.store.barrier().await.unwrap();
        self.tasks.cancel();
        self.tasks.join(Duration::from_secs(20)).await;
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Vote { term } => self.log.save_vote(&Vote::new(*term, OWNER)).await.unwrap(),
            Op::Append { entries } => {
                let entries: Vec<Entry> = entries.iter().map(Plan::entry).collect();
                self.log.append(entries, IOFlushed::noop()).await.unwrap();
            }
            Op::Truncate { from } => {
                let last = self.log.try_get_log_entries(from - 1..*from).await.unwrap();
                self.log.truncate_after(last.first().map(|entry| entry.log_id)).await.unwrap();
            }
            Op::Snapshot { index } => self.snapshot(*index).await,
            Op::Restart => {}
        }
    }

    async fn snapshot(&mut self, index: u64) {
        let from = self.machine.last().map_or(0, |id| id.index + 1);
        let entries = self.log.try_get_log_entries(from..=index).await.unwrap();
        self.machine.apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None))))).await.unwrap();
        self.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let Some(purged) = purge_to(index).filter(|upto| self.log.purged().is_none_or(|id| id.index < *upto)) else {
            return;
        };
        let entries = self.log.try_get_log_entries(purged..=purged).await.unwrap();
        self.log.purge(entries[0].log_id).await.unwrap();
    }
}
