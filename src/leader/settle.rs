//! Settles jobs on chain: registered, assigned, completed and paid, once each.
//!
//! The journal in the replicated state says what happened, a cursor how much of
//! it is planned. This duty makes transactions of what follows. Each is in the
//! log, with its nonce, hash and calls, before it is sent, and what it came to is
//! told the log, too. It keeps no state that its successor would miss.
//!
//! What remains after a leader died, or was deposed and goes on, by where it was:
//!
//! | where | what its successor does |
//! |---|---|
//! | before the log had the transaction | plans the same entries |
//! | in the log, not sent | asks for its hash, which nobody knows, and sends the very same |
//! | sent, the answer not heard | asks for its hash; sends the very same if that is not known |
//! | landed, the log not told | asks for its hash and tells the log |
//! | deposed, goes on sending | what it sends is in the log, so it is no more than a repetition; what is not in the log it does not send, and can not have put there |
//!
//! A successor first resolves what waits, then raises the epoch, then begins new
//! work. The contract takes a repetition for one, and refuses an epoch that is
//! past, should two clusters ever use one account.
//!
//! One turn after the other: look at what is in flight ([`watch`]), decide what to
//! do for each nonce ([`lane`]) and do it in their order ([`sender`]), then plan
//! ([`plan`]), estimate ([`bisect`]), and commit the next. A call that reverts is
//! found by estimates and parked with the contract's word; the others go on.
//!
//! With the chain down, slow, or short of money, the same is tried again, later
//! each time; only what has nothing to settle is passed over meanwhile, so that
//! the journal can let go of it.
//!
//! Absent: what calls look like, keys, and the connection, which are the chain's.

mod bisect;
mod funds;
mod items;
mod lane;
mod parked;
mod plan;
mod purse;
mod rates;
mod recover;
mod sender;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
mod traces;
mod watch;
mod worries;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::debug;

use super::{PAUSE, Reign};
use crate::chain::{self, Generation, Handle, gas};
use crate::clock;
use crate::consensus;
use crate::domain::Command;
use crate::domain::chain::{Act, Call, Ledger};
use crate::domain::command::{Refusal, Reply};
use crate::domain::journal::Sink;

use self::funds::Funds;
use self::items::Place;
use self::plan::{Plan, Room};
use self::rates::Rates;
use self::traces::Traces;
use self::watch::Watched;
use self::worries::{Worries, Worry};

/// Felts of calldata in a transaction; the network takes 5 000.
const FELTS: usize = 4_500;

/// Transactions in flight.
const IN_FLIGHT: usize = 6;

/// How often the chain is asked for what waits.
const POLL: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_millis(500);

/// Longest pause between two looks at everything.
const IDLE: Duration = Duration::from_secs(1);

/// What comes within this time goes together, even if somebody waits.
const GATHER: Duration = Duration::from_millis(20);

/// Entries that are passed over at once, and how long fewer wait for that.
const MANY: u64 = 5_000;
const LATE: Duration = Duration::from_secs(3);

/// Pause after an error, doubled each time up to the longest; half of it is chance.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Errors in a row until people are told.
const ERRORS: u32 = 3;

/// While something is short or shut it is looked at again after this.
const SHUT: Duration = Duration::from_secs(2);

/// Why a turn came to an end.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("ask the chain")]
    Chain(#[from] chain::Error),
    #[error("tell the log")]
    Log(#[from] consensus::Error),
    /// The books went on since they were looked at.
    #[error("the log refuses")]
    Refused(#[from] Refusal),
}

/// How long nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    No,
    /// Whatever comes.
    For(Duration),
    /// Or until there is more to settle.
    Idle(Duration),
}

struct Settler {
    reign: Reign,
    chain: Handle,
    worries: Worries,
    /// Whether the books' epoch is this leader's.
    claimed: bool,
    /// Epochs claimed because another was higher, and when the next may be.
    overtaken: u32,
    claim_after: Option<Instant>,
    traces: Traces,
    watched: Watched,
    rates: Option<Rates>,
    /// Calls in one transaction, while what more would cost can not be paid.
    calls: Option<usize>,
    /// How often items were reverted in this term.
    reverts: BTreeMap<u64, u32>,
    /// What jobs can be paid with in advance. `None`: not known, or there is no token.
    funds: Option<Funds>,
    /// Up to here nothing is to be settled, whether the log knows or not.
    passed: u64,
    passed_at: Option<Instant>,
    unparked_at: Option<Instant>,
    polled: u32,
}

/// Runs as long as the term lasts; may be dropped at any await.
pub(super) async fn run(reign: Reign) {
    let Some(chain) = reign.context.chain.clone() else { return };
    Settler::new(reign, chain).run().await;
}

impl Settler {
    fn new(reign: Reign, chain: Handle) -> Self {
        Self {
            worries: Worries::new(chain.alarm("settle")),
            reign,
            chain,
            claimed: false,
            overtaken: 0,
            claim_after: None,
            traces: Traces::default(),
            watched: Watched::default(),
            rates: None,
            calls: None,
            reverts: BTreeMap::new(),
            funds: None,
            passed: 0,
            passed_at: None,
            unparked_at: None,
            polled: 0,
        }
    }

    async fn run(mut self) {
        let mut failures = 0;
        loop {
            match self.turn().await {
                Ok(rest) => {
                    self.worries.note(Worry::Failing, None);
                    failures = 0;
                    self.rest(rest).await;
                }
                Err(Trouble::Chain(chain::Error::Stopping)) => return,
                Err(Trouble::Refused(refusal)) => {
                    debug!(%refusal, "planned on books that went on");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(trouble) => {
                    self.failed(&trouble, failures);
                    tokio::time::sleep(again_after(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    fn failed(&mut self, trouble: &Trouble, failures: u32) {
        debug!(error = %trouble, source = ?std::error::Error::source(trouble), "settlement is tried again");
        if let Trouble::Chain(error) = trouble
            && failures + 1 >= ERRORS
        {
            self.worries.note(Worry::Failing, Some(format!("{error}. Jobs go on and are settled later")));
        }
    }

    /// One look at everything, and the next step.
    async fn turn(&mut self) -> Result<Rest, Trouble> {
        self.begin().await?;
        let tended = self.tend().await;
        let looked = self.look_at_funds().await;
        let place = self.place();
        let mut plan = self.plan(place).await;
        // Also while the chain does not answer.
        self.pass_over(&plan).await?;
        tended?;
        if let Some(rest) = self.held_up(place).await? {
            return Ok(rest);
        }
        looked?;
        self.unpark().await?;
        if !plan.parked.is_empty() {
            let parked = self.park(&plan).await?;
            if parked || plan.items.is_empty() {
                return Ok(if parked { Rest::No } else { Rest::For(SHUT) });
            }
            // They stay where they are, and the others go on.
            plan.parked.clear();
        }
        if plan.items.is_empty() {
            return Ok(if plan.full { self.until_there_is_room() } else { self.until_next_look() });
        }
        self.go_on(plan, place).await
    }

    /// Reads the books of the chain. Keep it short.
    fn books<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        self.reign.context.client.read(|state| look(state.chain()))
    }

    fn waiting(&self) -> usize {
        self.books(|chain| chain.waiting().count())
    }

    fn place(&self) -> Place {
        let options = self.chain.options();
        let generation = match options.generation {
            Generation::Auto => self.chain.view().generation().unwrap_or(Generation::Full),
            known => known,
        };
        let purse = self.funds.map_or(u128::MAX, |funds| funds.purse());
        Place { contract: options.contract, account: options.account, generation, purse }
    }

    fn lead(&self, place: Place, epoch: u64) -> Vec<Call> {
        match place.generation {
            Generation::SubmissionOnly => vec![],
            _ => vec![chain::calls::assert_epoch(place.contract, epoch)],
        }
    }

    fn room(&self) -> Room {
        let most = self.chain.options().batch_calls.max(1);
        Room {
            calls: self.calls.unwrap_or(most).min(most),
            felts: FELTS,
            gas: gas::CALLS_MAX,
            escrow: self.funds.map_or(u128::MAX, |funds| funds.left()),
        }
    }

    // ------------------------------------------------------------ the log

    /// Commits in this term or not at all.
    async fn tell(&self, acts: Vec<Act>) -> Result<Vec<Reply>, consensus::Error> {
        self.reign.record("settle", acts.into_iter().map(Command::Chain).collect()).await
    }

    /// What is settled next: what came to nothing so far, or else what follows in the journal.
    async fn plan(&mut self, place: Place) -> Plan {
        let again = self.plan_again(place);
        if !again.is_empty() {
            return again;
        }
        let mut plan = Plan::after(self.planned().max(self.passed));
        while self.extend(&mut plan, place) {
            tokio::task::yield_now().await;
        }
        plan.full |= again.full && plan.items.is_empty();
        if plan.lost > 0 {
            tracing::error!(entries = plan.lost, "the journal ran over its bound: entries are not settled");
            self.worries.lost(plan.lost);
        }
        plan
    }

    fn plan_again(&self, place: Place) -> Plan {
        let room = self.room();
        self.reign.context.client.read(|state| {
            if state.chain().again_len() == 0 {
                return Plan::default();
            }
            Plan::again(state, &place, room, &self.reverts)
        })
    }

    fn extend(&self, plan: &mut Plan, place: Place) -> bool {
        let room = self.room();
        self.reign.context.client.read(|state| plan.extend(state, &place, room))
    }

    /// Up to which entry everything is planned or passed over.
    fn planned(&self) -> u64 {
        self.reign.context.client.read(|state| state.journal().cursor(Sink::Chain)).unwrap_or(0)
    }

    /// Tells the log, one time for many, up to where there is nothing to settle.
    async fn pass_over(&mut self, plan: &Plan) -> Result<(), Trouble> {
        self.reign.context.client.read(|state| self.worries.look(state));
        let through = plan.idle_through();
        let Some(cursor) = self.reign.context.client.read(|state| state.journal().cursor(Sink::Chain)) else {
            return Ok(());
        };
        if plan.again || through <= cursor {
            return Ok(());
        }
        self.passed = self.passed.max(through);
        let late = self.passed_at.is_none_or(|at| at.elapsed() >= LATE);
        if through - cursor >= MANY || late {
            self.tell(vec![Act::Skip { through }]).await?;
            self.passed_at = Some(clock::instant());
        }
        Ok(())
    }

    // ------------------------------------------------------------ pace

    /// There is something to settle, and it is not its turn: what is in flight, or before it, comes first.
    fn until_there_is_room(&mut self) -> Rest {
        if self.waiting() == 0 {
            // Nothing is: what is left may be more than was known.
            self.funds = None;
        }
        Rest::For(POLL)
    }

    fn until_next_look(&mut self) -> Rest {
        if self.waiting() == 0 {
            self.polled = 0;
            return Rest::Idle(if self.watched.is_empty() { IDLE } else { POLL_MAX });
        }
        self.polled = self.polled.saturating_add(1);
        Rest::Idle(POLL.saturating_mul(self.polled).min(POLL_MAX))
    }

    async fn rest(&self, rest: Rest) {
        match rest {
            Rest::No => tokio::task::yield_now().await,
            Rest::For(pause) => tokio::time::sleep(pause).await,
            Rest::Idle(pause) => tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.grown() => tokio::time::sleep(GATHER.min(pause)).await,
            },
        }
    }

    /// Completes when something is to be settled that was not there when it was looked for last.
    async fn grown(&self) {
        let client = &self.reign.context.client;
        let mut applied = client.applied();
        let passed = self.passed;
        let news = || client.read(|state| state.journal().last_seq() > passed || state.chain().again_len() > 0);
        loop {
            applied.borrow_and_update();
            if news() {
                return;
            }
            if applied.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// How long to wait after that many failures in a row.
fn again_after(failures: u32) -> Duration {
    let most = AGAIN_FIRST.saturating_mul(1 << failures.min(10)).min(AGAIN_MAX);
    most.mul_f64(rand::random_range(0.5..=1.0))
}
