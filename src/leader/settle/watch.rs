//! Looks at what is in flight, and tells the log what became of it.
//!
//! What waits is asked for by the hashes of all its tries, every turn. What
//! landed is watched: blocks form a chain, so as long as the newest block that
//! holds something of ours has the hash it had, all before it stand, and one
//! question is enough. Only when it has not, and from time to time for what
//! becomes more certain, each transaction is asked for.
//!
//! The nonce is asked for before the hashes: so a transaction that lands in
//! between is not taken for one whose nonce somebody else used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tracing::{debug, info, warn};

use super::lane::{Look, Rules, Step};
use super::worries::Worry;
use super::{Settler, Trouble};
use crate::chain;
use crate::clock;
use crate::domain::chain::{Act, Confirmation, Landed, Slot, TRIES_MAX};
use crate::telemetry::metrics;

/// How often what landed is looked at.
const RECENT_EVERY: Duration = Duration::from_millis(500);
const BLOCKS_EVERY: Duration = Duration::from_secs(2);
const CERTAIN_EVERY: Duration = Duration::from_secs(10);

const RESEND: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);
const LONG_PATIENCE: Duration = Duration::from_secs(30);

type Lane = Vec<(u64, Arc<Slot>)>;

/// When what landed was last looked at.
#[derive(Debug, Default)]
pub(super) struct Watched {
    any: bool,
    recent: Option<Instant>,
    blocks: Option<Instant>,
    certain: Option<Instant>,
}

impl Watched {
    pub fn is_empty(&self) -> bool {
        !self.any
    }
}

impl Settler {
    pub(super) fn rules(&self) -> Rules {
        let options = self.chain.options();
        Rules {
            resend: RESEND,
            retry: RETRY,
            replace: options.replace_after,
            patience: PATIENCE,
            long_patience: LONG_PATIENCE,
            watch_blocks: options.watch_blocks,
        }
    }

    fn lane(&self) -> Lane {
        self.books(|chain| chain.lane().map(|(nonce, slot)| (nonce, Arc::clone(slot))).collect())
    }

    /// Looks at every nonce in flight, and does what is to be done for it.
    pub(super) async fn tend(&mut self) -> Result<(), Trouble> {
        // Once more if the log was told: what waits behind a transaction that landed is sent at once.
        if self.tend_once().await? {
            self.tend_once().await?;
        }
        Ok(())
    }

    /// Whether the log was told something, so that nothing was sent.
    async fn tend_once(&mut self) -> Result<bool, Trouble> {
        let lane = self.lane();
        self.traces.retain(|nonce| lane.iter().any(|(known, _)| *known == nonce));
        let (landed, waiting): (Lane, Lane) = lane.into_iter().partition(|(_, slot)| slot.landed.is_some());
        self.watched.any = !landed.is_empty();
        self.watch(&landed).await?;
        if waiting.is_empty() {
            self.worries.note(Worry::Late, None);
            return Ok(false);
        }
        let steps = self.look(&landed, &waiting).await?;
        let told = self.tell_steps(&waiting, &steps).await?;
        if !told {
            self.act(&waiting, &steps).await?;
        }
        Ok(told)
    }

    // ------------------------------------------------------------ what waits

    /// Asks for what waits, and decides.
    async fn look(&mut self, landed: &Lane, waiting: &Lane) -> Result<Vec<Step>, Trouble> {
        let asked: Vec<bool> = waiting.iter().map(|(nonce, slot)| self.is_asked_for(*nonce, slot)).collect();
        let account = if asked.contains(&true) { Some(self.chain.nonce().await?) } else { None };
        let mut questions = Vec::with_capacity(waiting.len());
        for ((_, slot), ask) in waiting.iter().zip(asked) {
            questions.push(found(self.chain.clone(), Arc::clone(slot), ask));
        }
        let found = try_join_all(questions).await?;
        let lowest = waiting.first().map_or(0, |(nonce, _)| *nonce);
        let rules = self.rules();
        let mut steps = Vec::with_capacity(waiting.len());
        for ((nonce, slot), found) in waiting.iter().zip(found) {
            let next = account.unwrap_or(*nonce);
            let gap = next < lowest && !landed.iter().any(|(known, _)| *known == next);
            let look = Look { nonce: next, found, gap, head: 0 };
            let amiss = look.found.is_none() && (next > *nonce || gap);
            self.traces.amiss(*nonce, amiss);
            steps.push(rules.waiting(*nonce, slot, &look, &self.traces.seen(*nonce)));
        }
        self.tell_late(waiting);
        Ok(steps)
    }

    /// Not what this leader has prepared a moment ago: nobody can have sent it.
    fn is_asked_for(&self, nonce: u64, slot: &Slot) -> bool {
        let fresh = slot.newest().is_some_and(|newest| self.traces.is_fresh(nonce, newest.hash));
        slot.tries.len() > 1 || !fresh
    }

    /// What is tried for the last time and does not land needs somebody.
    fn tell_late(&mut self, waiting: &Lane) {
        let late = waiting.iter().find(|(_, slot)| slot.tries.len() >= TRIES_MAX);
        let text = late.map(|(nonce, slot)| {
            let tries = slot.tries.len();
            format!("nonce {nonce} was sent {tries} times with ever higher fees, and has not landed")
        });
        self.worries.note(Worry::Late, text);
    }

    /// Tells the log what landed or is given up. Whether there was any.
    async fn tell_steps(&mut self, lane: &Lane, steps: &[Step]) -> Result<bool, Trouble> {
        let mut acts = vec![];
        for ((nonce, slot), step) in lane.iter().zip(steps) {
            match step {
                Step::Landed(landed) => {
                    self.note_landed(*nonce, slot, landed);
                    acts.push(Act::Landed { nonce: *nonce, landed: landed.clone() });
                }
                Step::Lost => {
                    warn!(nonce, "the chain no longer knows a transaction that had landed");
                    self.traces.forget(*nonce);
                    acts.push(Act::Lost { nonce: *nonce });
                }
                Step::Abandon => {
                    warn!(nonce, "given up: its items are planned again");
                    self.traces.forget(*nonce);
                    acts.push(Act::Abandon { nonce: *nonce });
                }
                Step::Close => acts.push(Act::Close { nonce: *nonce }),
                Step::Send | Step::Replace | Step::Wait => {}
            }
        }
        if acts.is_empty() {
            return Ok(false);
        }
        self.tell(acts).await?;
        Ok(true)
    }

    fn note_landed(&mut self, nonce: u64, slot: &Slot, landed: &Landed) {
        let (hash, block) = (landed.hash, landed.block.map(|block| block.number));
        if slot.landed.is_some() {
            debug!(nonce, transaction = %hash, block, confirmation = ?landed.confirmation, "more certain");
            return;
        }
        let Some(reason) = &landed.reverted else {
            info!(nonce, transaction = %hash, block, confirmation = ?landed.confirmation, "landed");
            self.count_landed(slot);
            self.reverts.retain(|seq, _| !slot.items().iter().any(|item| item.seq == *seq));
            self.not_overtaken();
            return;
        };
        warn!(nonce, transaction = %hash, block, reason, "reverted: its items are planned again");
        // Perhaps for what it was given to spend.
        self.rates = None;
        for item in slot.items() {
            let count = self.reverts.entry(item.seq).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// How long each stage took, from its event; from its transaction if the journal has the event no more.
    fn count_landed(&self, slot: &Slot) {
        let client = &self.reign.context.client;
        let now = client.log_now();
        client.read(|state| {
            for item in slot.items() {
                let entry = state.journal().after(item.seq.saturating_sub(1), 1).into_iter().next();
                let begun = entry.filter(|entry| entry.seq == item.seq).map_or(slot.prepared_at, |entry| entry.at);
                metrics::chain_settled(Duration::from_millis(now.since(begun)));
            }
        });
    }

    /// Sends what is to be sent, in order, up to the first that no node is known to have.
    async fn act(&mut self, waiting: &Lane, steps: &[Step]) -> Result<(), Trouble> {
        for ((nonce, slot), step) in waiting.iter().zip(steps) {
            let there = match step {
                Step::Send => self.send(*nonce, slot).await?,
                Step::Replace => {
                    self.replace(*nonce, slot).await?;
                    false
                }
                _ => self.traces.seen(*nonce).accepted,
            };
            if !there {
                break;
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ what landed

    /// Looks at what landed, as often as it is worth it.
    async fn watch(&mut self, landed: &Lane) -> Result<(), Trouble> {
        let due = self.due(landed).await?;
        let head = self.chain.view().block.map_or(0, |block| block.number);
        let rules = self.rules();
        let account = if due.is_empty() { 0 } else { self.chain.nonce().await? };
        let mut questions = Vec::with_capacity(due.len());
        for (_, slot) in &due {
            questions.push(found(self.chain.clone(), Arc::clone(slot), true));
        }
        let found = try_join_all(questions).await?;
        let mut found: BTreeMap<u64, Option<Landed>> = due.iter().map(|(nonce, _)| *nonce).zip(found).collect();
        let mut steps = Vec::with_capacity(landed.len());
        for (nonce, slot) in landed {
            let Some(known) = &slot.landed else { continue };
            let step = match found.remove(nonce) {
                Some(found) => {
                    self.traces.amiss(*nonce, found.is_none());
                    let look = Look { nonce: account, found, gap: false, head };
                    rules.watched(*nonce, known, &look, &self.traces.seen(*nonce))
                }
                None if rules.is_done(known, head) => Step::Close,
                None => Step::Wait,
            };
            steps.push(step);
        }
        self.tell_steps(landed, &steps).await.map(drop)
    }

    /// Those that are to be asked for now.
    async fn due(&mut self, landed: &Lane) -> Result<Lane, Trouble> {
        let (closed, recent): (Lane, Lane) = landed.iter().cloned().partition(|(_, slot)| in_block(slot).is_some());
        let mut due = Lane::new();
        if elapsed(&mut self.watched.recent, RECENT_EVERY) {
            due.extend(recent);
        }
        let amiss = closed.iter().any(|(nonce, _)| self.traces.seen(*nonce).amiss.is_some());
        if elapsed(&mut self.watched.blocks, BLOCKS_EVERY) && (amiss || !self.stand(&closed).await?) {
            due.extend(closed);
        } else if elapsed(&mut self.watched.certain, CERTAIN_EVERY) {
            // The oldest becomes certain first.
            due.extend(closed.into_iter().take(1));
        }
        Ok(due)
    }

    /// Whether the newest block that holds something of ours is what it was.
    async fn stand(&self, closed: &Lane) -> Result<bool, Trouble> {
        let newest = closed.iter().filter_map(|(_, slot)| in_block(slot)).max_by_key(|block| block.number);
        match newest {
            Some(block) => Ok(self.chain.block_hash(block.number).await? == Some(block.hash)),
            None => Ok(true),
        }
    }
}

/// The closed block that a slot's transaction landed in.
fn in_block(slot: &Slot) -> Option<crate::domain::chain::Block> {
    let landed = slot.landed.as_ref()?;
    landed.block.filter(|_| landed.confirmation > Confirmation::Preconfirmed)
}

/// Whether that much time has passed since; then it begins anew.
fn elapsed(since: &mut Option<Instant>, pause: Duration) -> bool {
    let passed = since.is_none_or(|since| since.elapsed() >= pause);
    if passed {
        *since = Some(clock::instant());
    }
    passed
}

/// What the chain says of a slot: the newest of its tries that it knows.
async fn found(chain: chain::Handle, slot: Arc<Slot>, ask: bool) -> Result<Option<Landed>, chain::Error> {
    for try_ in slot.tries.iter().rev().filter(|_| ask) {
        if let Some(landed) = chain.status(try_).await? {
            return Ok(Some(landed));
        }
    }
    Ok(None)
}
