//! Follows the contract's events: jobs that others submit on chain, and payments.
//!
//! Closed blocks are read in order, from where the *log* says that reading is,
//! and what they hold becomes one command. Most hold nothing for us: then the log
//! is told only now and then, and a successor reads a few blocks again.
//!
//! The hash of the block that was read last is compared in every turn. If it is
//! another, the chain took another turn: reading goes back to the newest block
//! that still stands, and what is read again is taken once, since a job is
//! known by its id, and payments of blocks that are gone were taken back.
//!
//! Absent: what to do with jobs that were taken. They are jobs like any other,
//! and what becomes of them is settled like that of any other.

mod arrivals;

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::{PAUSE, Reign};
use crate::chain::{self, Alarm, Event, Handle, What};
use crate::clock;
use crate::consensus;
use crate::domain::chain::{Act, Block, Ledger, Payment, U256};
use crate::domain::command::Refusal;
use crate::domain::{Command, JobId, State};

/// Between two looks at the chain.
const LOOK: Duration = Duration::from_secs(1);

/// Blocks read at once, and what is aimed at in one command.
const SPAN: u64 = 512;
const EVENTS: usize = 1_000;

/// Blocks without anything for us, or the time they take, until the log is told.
const BLOCKS: u64 = 64;
const LATE: Duration = Duration::from_secs(60);

/// How long a block must be missing until it is taken to be gone: another node may lag.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause after an error, doubled each time up to the longest; half of it is chance.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(15);

/// Errors in a row until people are told.
const ERRORS: u32 = 3;

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("ask the chain")]
    Chain(#[from] chain::Error),
    #[error("tell the log")]
    Log(#[from] consensus::Error),
    #[error("the log refuses")]
    Refused(#[from] Refusal),
}

struct Follower {
    reign: Reign,
    chain: Handle,
    alarm: Alarm,
    /// The last block that was read, whether the log knows or not.
    last: Option<Block>,
    told_at: Instant,
    /// Since when the last block is missing.
    missing: Option<Instant>,
    span: u64,
}

/// Runs as long as the term lasts; may be dropped at any await.
pub(super) async fn run(reign: Reign) {
    let Some(chain) = reign.context.chain.clone() else { return };
    let alarm = chain.alarm("follow");
    let follower = Follower { reign, chain, alarm, last: None, told_at: clock::instant(), missing: None, span: SPAN };
    follower.run().await;
}

impl Follower {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            match self.turn().await {
                Ok(more) => {
                    self.alarm.note(None);
                    failures = 0;
                    if more {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Err(Trouble::Chain(chain::Error::Stopping)) => return,
                Err(trouble) => {
                    self.failed(&trouble, failures);
                    tokio::time::sleep(again_after(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    fn failed(&mut self, trouble: &Trouble, failures: u32) {
        debug!(error = %trouble, source = ?std::error::Error::source(trouble), "events are read again");
        let told = match trouble {
            Trouble::Refused(Refusal::BacklogFull { limit }) => {
                format!("jobs from the chain wait: the backlog is full ({limit})")
            }
            Trouble::Chain(error) if failures + 1 >= ERRORS => format!("events are not read: {error}"),
            _ => return,
        };
        self.alarm.note(Some(told));
    }

    fn books<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        self.reign.context.client.read(|state| look(state.chain()))
    }

    /// Reads some blocks, if there are any. Whether there are more.
    async fn turn(&mut self) -> Result<bool, Trouble> {
        let site = self.chain.site();
        if site.is_none() || self.books(|chain| chain.site().cloned()) != site {
            return Ok(false);
        }
        let head = self.chain.head().await?;
        if !self.stands(head).await? {
            return Ok(false);
        }
        let told = self.books(Ledger::next_block);
        let start = self.chain.options().follow_from.unwrap_or(head.number);
        let from = told.unwrap_or(start);
        let next = self.last.map_or(from, |last| last.number.saturating_add(1).max(from));
        if next > head.number {
            self.tell_late(from).await?;
            return Ok(false);
        }
        let Some(read) = self.read(next, head).await? else { return Ok(true) };
        self.take(from, read).await?;
        Ok(self.last.is_some_and(|last| last.number < head.number))
    }

    // ------------------------------------------------------------ reading

    /// Blocks from `next` on, and their events. `None`: fewer are tried next time.
    async fn read(&mut self, next: u64, head: Block) -> Result<Option<(Block, Vec<Event>)>, Trouble> {
        let number = next.saturating_add(self.span - 1).min(head.number);
        let events = match self.chain.events(next, number).await {
            Ok(events) => events,
            Err(chain::Error::TooMany { .. }) if self.span > 1 => {
                self.span /= 2;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if events.len() > EVENTS && self.span > 1 {
            self.span /= 2;
            return Ok(None);
        }
        self.span = self.span.saturating_mul(2).min(SPAN);
        // Asked for after the events: if the chain took another turn meanwhile, they are read again.
        let hash = self.chain.block_hash(number).await?;
        let same = events.iter().filter_map(|event| event.block).filter(|block| block.number == number);
        match hash.filter(|hash| same.clone().all(|block| block.hash == *hash)) {
            Some(hash) => Ok(Some((Block { number, hash }, events))),
            None => Ok(None),
        }
    }

    /// Tells the log what was read, if it is anything, or has been much.
    async fn take(&mut self, from: u64, (to, events): (Block, Vec<Event>)) -> Result<(), Trouble> {
        let payments = self.payments(&events);
        let ended = self.ended(&events);
        let arrivals = arrivals::taken(&self.reign, &self.chain, &events).await?;
        let many = to.number.saturating_sub(from) >= BLOCKS || self.books(|chain| chain.next_block().is_none());
        let nothing = arrivals.is_empty() && payments.is_empty() && ended.is_empty();
        if !nothing || many {
            let (taken, paid) = (arrivals.len(), payments.len());
            let followed = Act::Followed { from, to, arrivals, payments };
            let cancelled = ended.into_iter().map(|job| Command::Cancel { job, reason: CANCELLED.to_owned() });
            self.tell(std::iter::once(Command::Chain(followed)).chain(cancelled).collect()).await?;
            if taken > 0 || paid > 0 {
                info!(block = to.number, jobs = taken, payments = paid, "followed the chain");
            }
        }
        self.last = Some(to);
        Ok(())
    }

    async fn tell_late(&mut self, from: u64) -> Result<(), Trouble> {
        let Some(to) = self.last.filter(|last| last.number >= from && self.told_at.elapsed() >= LATE) else {
            return Ok(());
        };
        let followed = Act::Followed { from, to, arrivals: vec![], payments: vec![] };
        self.tell(vec![Command::Chain(followed)]).await
    }

    async fn tell(&mut self, commands: Vec<Command>) -> Result<(), Trouble> {
        let replies = self.reign.record("follow", commands).await?;
        if let Some(Err(refusal)) = replies.into_iter().next() {
            tokio::time::sleep(PAUSE).await;
            return Err(refusal.into());
        }
        self.told_at = clock::instant();
        Ok(())
    }

    /// Payments for jobs that are known here.
    fn payments(&self, events: &[Event]) -> Vec<Payment> {
        let paid = events.iter().filter_map(|event| {
            let What::Paid { job, payee, amount } = event.what else { return None };
            let amount = if amount.high == 0 { amount.low } else { u128::MAX };
            Some(Payment { block: event.block?.number, job, payee, amount })
        });
        let paid: Vec<Payment> = paid.collect();
        self.reign.context.client.read(|state| {
            let known = |payment: &Payment| state.chain().settlement(ours(state, payment.job)).is_some();
            paid.into_iter().filter(known).collect()
        })
    }

    /// Jobs from the chain that their clients took back there.
    fn ended(&self, events: &[Event]) -> Vec<JobId> {
        let ended = events.iter().filter_map(|event| match event.what {
            What::Cancelled { job, .. } | What::Expired { job, .. } => Some(job),
            _ => None,
        });
        let ended: Vec<U256> = ended.collect();
        self.reign.context.client.read(|state| {
            let jobs = ended.into_iter().filter_map(|job| state.chain().arrived(job));
            jobs.filter(|job| state.job(*job).is_some_and(|job| !job.state.is_final())).collect()
        })
    }

    // ------------------------------------------------------------ going back

    /// Whether the block that was read last is still the chain's. If not, the log is told to go back.
    async fn stands(&mut self, head: Block) -> Result<bool, Trouble> {
        let Some(last) = self.last.or(self.books(|chain| chain.tail().last().copied())) else { return Ok(true) };
        match self.chain.block_hash(last.number).await? {
            Some(hash) if hash == last.hash => {
                self.missing = None;
                return Ok(true);
            }
            Some(_) => {}
            None => {
                let since = *self.missing.get_or_insert_with(clock::instant);
                if since.elapsed() < PATIENCE {
                    return Ok(false);
                }
            }
        }
        self.missing = None;
        self.last = None;
        let to = self.standing(head).await?;
        if self.books(Ledger::next_block).is_some_and(|next| to < next) {
            warn!(block = last.number, to, "the chain took another turn: its events are read again");
            self.tell(vec![Command::Chain(Act::Rewind { to })]).await?;
        }
        Ok(false)
    }

    /// The first block that is to be read again.
    async fn standing(&self, head: Block) -> Result<u64, Trouble> {
        let tail = self.books(|chain| chain.tail().to_vec());
        for block in tail.iter().rev() {
            if self.chain.block_hash(block.number).await? == Some(block.hash) {
                return Ok(block.number.saturating_add(1));
            }
        }
        let oldest = tail.first().map_or(head.number, |block| block.number);
        if oldest <= head.number {
            return Ok(oldest);
        }
        // A chain that began anew.
        Ok(self.chain.options().follow_from.unwrap_or(head.number).min(head.number))
    }
}

const CANCELLED: &str = "cancelled or expired on chain";

/// Our job that the contract calls so.
fn ours(state: &State, job: U256) -> JobId {
    state.chain().arrived(job).unwrap_or(JobId(job.low.to_be_bytes()))
}

/// How long to wait after that many failures in a row.
fn again_after(failures: u32) -> Duration {
    let most = AGAIN_FIRST.saturating_mul(1 << failures.min(10)).min(AGAIN_MAX);
    most.mul_f64(rand::random_range(0.5..=1.0))
}
