//! A simulated chain with our contract: nonces, blocks, the fence of epochs, and the loss of its last block.
//!
//! The contract here does not take repetitions for one, as the real one does: so
//! what is paid twice is seen, and must not happen by our own doing.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{World, note};
use crate::domain::JobId;
use crate::domain::chain::{Block, Confirmation, Felt, Item, Landed, Stage, Transaction};
use crate::leader::sim::settle::{Chain, Sent, asserted};

struct Done {
    transaction: Transaction,
    reverted: Option<&'static str>,
}

#[derive(Default)]
pub(super) struct Contract {
    mempool: BTreeMap<u64, Transaction>,
    open: Vec<Done>,
    blocks: Vec<(Block, Vec<Done>)>,
    epoch: u64,
    forks: u64,
    /// Entries whose calls were reverted once: they are planned again, and what was reverted may yet come about if its
    /// block is given up. The real contract takes the second for a repetition.
    reverted: BTreeSet<u64>,
    /// Jobs whose calls revert.
    pub poisoned: BTreeSet<JobId>,
}

impl Contract {
    fn done(&self) -> impl Iterator<Item = &Done> {
        self.blocks.iter().flat_map(|(_, done)| done).chain(&self.open)
    }

    fn nonce(&self) -> u64 {
        self.done().count() as u64
    }

    pub fn send(&mut self, transaction: Transaction) -> Sent {
        let nonce = transaction.nonce;
        let same = |known: &Transaction| known.hash == transaction.hash;
        if self.done().any(|done| same(&done.transaction)) || self.mempool.get(&nonce).is_some_and(same) {
            return Sent::Known;
        }
        if nonce < self.nonce() || self.mempool.contains_key(&nonce) {
            return Sent::NonceUsed;
        }
        self.mempool.insert(nonce, transaction);
        Sent::Accepted
    }

    /// A planted mistake: the same calls under the next nonce.
    pub fn send_again(&mut self, transaction: &Transaction) {
        let nonce = transaction.nonce + 1;
        self.send(Transaction { nonce, hash: Felt::from(nonce), ..transaction.clone() });
    }

    /// Runs what is next by its nonce.
    fn run(&mut self) {
        while let Some(transaction) = self.mempool.remove(&self.nonce()) {
            let epoch = asserted(&transaction).expect("every transaction asserts its epoch");
            let poisoned = transaction.items.iter().any(|item| self.poisoned.contains(&item.job));
            let reverted = match () {
                () if epoch < self.epoch => Some("STALE_EPOCH"),
                () if poisoned => Some("POISONED_CALL"),
                () => None,
            };
            match reverted {
                None => self.epoch = epoch,
                Some(_) => self.reverted.extend(transaction.items.iter().map(|item| item.seq)),
            }
            self.open.push(Done { transaction, reverted });
        }
    }

    fn close(&mut self) {
        let number = self.blocks.len() as u64 + 1;
        let hash = Felt::from(number * 1_000 + self.forks);
        self.blocks.push((Block { number, hash }, std::mem::take(&mut self.open)));
    }

    /// Gives up the last block and what is not in one. Some of it comes again by itself.
    fn reorg(&mut self, comes_again: bool) {
        let Some((_, lost)) = self.blocks.pop() else { return };
        self.forks += 1;
        let open = std::mem::take(&mut self.open);
        for done in lost.into_iter().chain(open).filter(|_| comes_again) {
            self.mempool.insert(done.transaction.nonce, done.transaction);
        }
        let succeeded = self.done().filter(|done| done.reverted.is_none());
        self.epoch = succeeded.filter_map(|done| asserted(&done.transaction)).max().unwrap_or(0);
    }

    /// Stages of jobs that came about, each as often as it did.
    pub fn settled(&self) -> BTreeMap<(JobId, Stage, u64), u32> {
        let mut settled = BTreeMap::new();
        for item in self.done().filter(|done| done.reverted.is_none()).flat_map(|done| &done.transaction.items) {
            *settled.entry((item.job, item.stage, item.seq)).or_default() += 1;
        }
        settled
    }

    /// Nothing is settled twice, and no job is paid for twice or paid for and refunded.
    pub fn check(&self) {
        let mut ends: BTreeMap<JobId, u32> = BTreeMap::new();
        for ((job, stage, seq), times) in self.settled() {
            assert!(
                times == 1 || self.reverted.contains(&seq),
                "job {job}: {} of entry {seq} came about {times} times",
                stage.as_str()
            );
            if matches!(stage, Stage::Settle | Stage::Refund) {
                *ends.entry(job).or_default() += 1;
            }
        }
        for (job, ends) in ends {
            assert_eq!(ends, 1, "job {job} was paid for or refunded {ends} times");
        }
    }
}

/// What a leader sees of it.
pub(super) struct View<'a> {
    pub contract: &'a Contract,
    /// It does not answer.
    pub down: bool,
}

impl Chain for View<'_> {
    fn nonce(&mut self) -> Option<u64> {
        (!self.down).then(|| self.contract.nonce())
    }

    fn status(&mut self, hash: Felt) -> Option<Option<Landed>> {
        if self.down {
            return None;
        }
        let landed = |done: &Done, block: Option<Block>, confirmation| Landed {
            hash,
            block,
            confirmation,
            fee: 1,
            reverted: done.reverted.map(Into::into),
            ids: vec![],
        };
        let same = |done: &&Done| done.transaction.hash == hash;
        if let Some(done) = self.contract.open.iter().find(same) {
            return Some(Some(landed(done, None, Confirmation::Preconfirmed)));
        }
        let found = self.contract.blocks.iter().find_map(|(block, done)| Some((*block, done.iter().find(same)?)));
        Some(found.map(|(block, done)| landed(done, Some(block), Confirmation::AcceptedL2)))
    }

    fn epoch(&mut self) -> Option<u64> {
        (!self.down).then_some(self.contract.epoch)
    }

    fn reverts(&mut self, items: &[Item]) -> Option<String> {
        let poisoned = items.iter().any(|item| self.contract.poisoned.contains(&item.job));
        poisoned.then(|| "poisoned_call".to_owned())
    }

    fn head(&self) -> u64 {
        self.contract.blocks.len() as u64
    }
}

impl World {
    pub(super) fn begin_contract(&mut self) {
        self.after(300, "run", Self::run_contract);
        self.after(1_000, "block", Self::close_block);
    }

    fn run_contract(&mut self) {
        self.contract.run();
        self.contract.check();
        let next = self.between(150, 600);
        self.after(next, "run", Self::run_contract);
    }

    fn close_block(&mut self) {
        if self.chance(self.faults.reorg) {
            let comes_again = self.chance(500);
            note!(self, "the chain gives up its last block; its transactions come again: {comes_again}");
            self.contract.reorg(comes_again);
        } else {
            self.contract.close();
        }
        let next = self.between(600, 1_500);
        self.after(next, "block", Self::close_block);
    }
}
