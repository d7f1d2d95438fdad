//! The books of the chain: what is planned, what became of it, and what a new leader finds.

use super::fixture::{SMALL, check, complete, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::chain::{
    Act, Arrival, Block, Bounds, Call, Confirmation, FELTS_MAX, Felt, IN_FLIGHT_MAX, Item, LANE_MAX, Landed, Payment,
    Policy, Site, Stage, Terms, Transaction, U256,
};
use crate::domain::command::{Command, Done, Record, Refusal, Reply};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::{JobState, Source};
use crate::domain::journal::Sink;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

pub(super) fn felt(n: u64) -> Felt {
    Felt::from(n)
}

pub(super) fn site(n: u64) -> Site {
    Site { chain_id: Felt::short(b"SN_TEST").unwrap(), contract: felt(n), account: felt(7) }
}

pub(super) fn item(seq: u64, job: JobId, stage: Stage) -> Item {
    let call = Call { to: felt(1), selector: felt(2), calldata: vec![felt(seq)] };
    Item { seq, job, stage, calls: vec![call], payees: vec![] }
}

pub(super) fn transaction(nonce: u64, hash: u64, epoch: u64, items: Vec<Item>) -> Transaction {
    Transaction { nonce, hash: felt(hash), epoch, lead: vec![], items, bounds: Bounds::default() }
}

pub(super) fn landed(hash: u64, confirmation: Confirmation, reverted: Option<&str>) -> Landed {
    let block = Some(Block { number: hash, hash: felt(1_000 + hash) });
    Landed { hash: felt(hash), block, confirmation, fee: 10, reverted: reverted.map(Into::into), ids: vec![] }
}

/// Every item is in one place, and planning has passed it.
pub(super) fn check_books(state: &State) {
    let chain = state.chain();
    let going = chain.lane().filter(|(_, slot)| !slot.given_back);
    let mut places: Vec<u64> = going.flat_map(|(_, slot)| slot.items().iter().map(|item| item.seq)).collect();
    places.extend(chain.again().map(|again| again.item.seq));
    places.extend(chain.parked_after(None).map(|parked| parked.item.seq));
    let count = places.len();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), count, "an item is in two places");
    assert!(places.last().is_none_or(|last| *last <= state.journal().last_seq()));
    assert!(chain.waiting().count() <= IN_FLIGHT_MAX && chain.lane().count() <= LANE_MAX);
}

/// A cluster that settles: its state, and what it is told.
pub(super) struct Cluster(pub State);

impl Cluster {
    /// With a leader that has begun.
    pub fn new() -> Self {
        let mut cluster = Self(State::within(SMALL));
        assert_eq!(cluster.act(Act::Claim { site: site(1), least: 0 }), Ok(Done::Epoch(1)));
        cluster
    }

    pub fn apply(&mut self, command: Command) -> Reply {
        let position = Position { index: self.0.applied() + 1, term: 1 };
        let record = Record { at: Timestamp(1_000 + position.index), commands: vec![command] };
        let reply = self.0.apply(position, &record).remove(0);
        check(&reread(&self.0));
        reply
    }

    pub fn act(&mut self, act: Act) -> Reply {
        self.apply(Command::Chain(act))
    }

    /// A job that is settled. Returns the number of its entry.
    pub fn submit(&mut self, id: JobId, policy: Policy) -> u64 {
        let mut spec = spec(b"x");
        spec.max_price = Some(Price(100));
        spec.settlement = Some(Terms { policy, confirmation: Confirmation::AcceptedL2 });
        assert_eq!(self.apply(submit(id, spec, b"x")), Ok(Done::Submitted { job: id, created: true }));
        self.last()
    }

    pub fn last(&self) -> u64 {
        self.0.journal().last_seq()
    }

    pub fn prepare(&mut self, nonce: u64, hash: u64, items: Vec<Item>) -> Reply {
        let (epoch, through) = (self.0.chain().epoch(), self.last());
        self.act(Act::Prepare { transaction: Box::new(transaction(nonce, hash, epoch, items)), through })
    }

    pub fn land(&mut self, nonce: u64, landed: Landed) -> Reply {
        self.act(Act::Landed { nonce, landed: Box::new(landed) })
    }

    fn link(&self, id: JobId, stage: Stage) -> Option<(Felt, Option<Confirmation>)> {
        let settlement = self.0.chain().settlement(id)?;
        settlement.links.iter().find(|link| link.stage == stage).map(|link| (link.hash, link.confirmation))
    }
}

#[test]
fn what_is_prepared_is_found_by_the_next_leader_and_its_outcome_is_counted_once() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    assert!(cluster.prepare(5, 50, vec![item(seq, job(1), Stage::Register)]).is_ok());
    assert_eq!(cluster.0.journal().cursor(Sink::Chain), Some(seq), "planning is there");
    assert_eq!(cluster.link(job(1), Stage::Register), Some((felt(50), None)));
    // The leader dies here. The next one begins, and finds what waits.
    assert_eq!(cluster.act(Act::Claim { site: site(1), least: 9 }), Ok(Done::Epoch(9)));
    let (nonce, slot) = cluster.0.chain().waiting().next().unwrap();
    assert_eq!((nonce, slot.newest().unwrap().hash, slot.newest().unwrap().epoch), (5, felt(50), 1));
    for _ in 0..2 {
        assert!(cluster.land(5, landed(50, Confirmation::AcceptedL2, None)).is_ok());
    }
    let totals = cluster.0.chain().totals();
    assert_eq!((totals.succeeded, totals.calls, totals.fees), (1, 1, 10));
    assert_eq!(cluster.link(job(1), Stage::Register), Some((felt(50), Some(Confirmation::AcceptedL2))));
    let settlement = cluster.0.chain().settlement(job(1)).unwrap();
    assert_eq!(settlement.chain_job, Some(U256::of(job(1))));
}

#[test]
fn the_same_entry_is_not_planned_twice() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    let register = || vec![item(seq, job(1), Stage::Register)];
    assert!(cluster.prepare(0, 1, register()).is_ok());
    assert!(matches!(cluster.prepare(1, 2, register()), Err(Refusal::NotPlanned(_))));
    let beyond = item(cluster.last() + 1, job(1), Stage::Assign);
    assert!(matches!(cluster.prepare(1, 2, vec![beyond]), Err(Refusal::NotPlanned(_))));
}

#[test]
fn a_deposed_leader_plans_nothing() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    cluster.act(Act::Claim { site: site(1), least: 0 }).unwrap();
    let old = Box::new(transaction(0, 1, 1, vec![item(seq, job(1), Stage::Register)]));
    let refused = cluster.act(Act::Prepare { transaction: old, through: seq });
    assert_eq!(refused, Err(Refusal::StaleEpoch { sent: 1, current: 2 }));
}

#[test]
fn nonces_are_planned_in_turn_and_a_second_try_carries_the_same_items() {
    let mut cluster = Cluster::new();
    let first = cluster.submit(job(1), Policy::SettleLater);
    let second = cluster.submit(job(2), Policy::SettleLater);
    let items = |seq, id| vec![item(seq, id, Stage::Register)];
    assert!(
        cluster
            .act(Act::Prepare { transaction: Box::new(transaction(3, 1, 1, items(first, job(1)))), through: first })
            .is_ok()
    );
    assert!(matches!(cluster.prepare(5, 2, items(second, job(2))), Err(Refusal::NotPlanned(_))), "4 is next");
    assert!(matches!(cluster.prepare(3, 2, items(second, job(2))), Err(Refusal::NotPlanned(_))), "3 is for job 1");
    assert!(cluster.prepare(3, 2, items(first, job(1))).is_ok());
    assert_eq!(cluster.0.chain().slot(3).unwrap().tries.len(), 2);
    // The first of the two lands after all.
    assert!(cluster.land(3, landed(1, Confirmation::AcceptedL2, None)).is_ok());
    assert_eq!(cluster.link(job(1), Stage::Register), Some((felt(1), Some(Confirmation::AcceptedL2))));
    assert!(matches!(cluster.land(3, landed(2, Confirmation::AcceptedL2, None)), Err(Refusal::NotPlanned(_))));
}

#[test]
fn a_job_that_must_be_registered_first_waits_for_the_confirmation_it_asked_for() {
    let mut cluster = Cluster::new();
    cluster.apply(register(worker(1), 4)).unwrap();
    let seq = cluster.submit(job(1), Policy::RegisterBeforeDistribution);
    assert!(cluster.0.job(job(1)).unwrap().awaits_chain);
    let award =
        Command::Assign { job: job(1), attempt: 1, worker: worker(1), price: Price(1), lease_ms: 99, evidence: None };
    assert!(matches!(cluster.apply(award.clone()), Err(Refusal::NotOpen { .. })));
    cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    cluster.land(0, landed(1, Confirmation::Preconfirmed, None)).unwrap();
    assert!(cluster.0.job(job(1)).unwrap().awaits_chain, "preconfirmed is not enough");
    cluster.land(0, landed(1, Confirmation::AcceptedL2, None)).unwrap();
    assert!(cluster.apply(award).is_ok());
}

#[test]
fn reverted_items_are_planned_again_and_the_culprit_is_parked() {
    let mut cluster = Cluster::new();
    let first = cluster.submit(job(1), Policy::SettleLater);
    let second = cluster.submit(job(2), Policy::RegisterBeforeDistribution);
    let items = vec![item(first, job(1), Stage::Register), item(second, job(2), Stage::Register)];
    cluster.prepare(0, 1, items.clone()).unwrap();
    cluster.land(0, landed(1, Confirmation::AcceptedL2, Some("… ('SPEC_MISMATCH')"))).unwrap();
    assert_eq!(cluster.0.chain().again_len(), 2);
    assert_eq!(cluster.0.chain().totals().reasons.get("SPEC_MISMATCH"), Some(&1));
    let through = cluster.last();
    let parked = vec![(items[1].clone(), "spec_mismatch".into(), "other arguments".into())];
    cluster.act(Act::Park { parked, through }).unwrap();
    // It never ran, and nothing is owed.
    let failed = cluster.0.job(job(2)).unwrap();
    assert_eq!((failed.state, failed.error.as_ref().unwrap().code.as_str()), (JobState::Failed, "registration_failed"));
    assert!(cluster.0.chain().is_parked(job(2)));
    cluster.prepare(1, 2, items[..1].to_vec()).unwrap();
    cluster.land(1, landed(2, Confirmation::AcceptedL2, None)).unwrap();
    assert_eq!(cluster.0.chain().again_len(), 0);
    assert_eq!(cluster.act(Act::Retry { seq: second }), Ok(Done::Letter { letter: second }));
    assert_eq!((cluster.0.chain().again_len(), cluster.0.chain().is_parked(job(2))), (1, false));
    assert_eq!(cluster.act(Act::Drop { seq: second }), Err(Refusal::UnknownLetter(second)));
}

#[test]
fn a_block_that_was_aborted_leaves_its_transactions_to_be_sent_again() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    cluster.land(0, landed(1, Confirmation::AcceptedL2, None)).unwrap();
    cluster.act(Act::Lost { nonce: 0 }).unwrap();
    assert_eq!(cluster.0.chain().waiting().count(), 1);
    assert_eq!(cluster.link(job(1), Stage::Register), Some((felt(1), None)));
    cluster.land(0, landed(1, Confirmation::AcceptedL1, None)).unwrap();
    cluster.act(Act::Close { nonce: 0 }).unwrap();
    assert_eq!((cluster.0.chain().lane().count(), cluster.0.chain().recent_after(None).count()), (0, 1));
}

#[test]
fn a_nonce_that_somebody_else_used_gives_its_items_back() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    let items = vec![item(seq, job(1), Stage::Register)];
    cluster.prepare(0, 1, items.clone()).unwrap();
    cluster.act(Act::Abandon { nonce: 0 }).unwrap();
    assert_eq!(cluster.0.chain().totals().abandoned, 1);
    assert!(cluster.prepare(1, 2, items).is_ok());
    assert!(matches!(cluster.act(Act::Abandon { nonce: 0 }), Err(Refusal::NotPlanned(_))));
}

#[test]
fn a_refunded_job_gets_no_second_chance_and_a_reopened_one_no_refund() {
    let mut cluster = Cluster::new();
    let begin = cluster.submit(job(1), Policy::SettleLater);
    cluster.apply(Command::PassDeadline { job: job(1) }).unwrap_err();
    cluster.apply(register(worker(1), 4)).unwrap();
    let award = |attempt| Command::Assign {
        job: job(1),
        attempt,
        worker: worker(1),
        price: Price(1),
        lease_ms: 99,
        evidence: None,
    };
    let fail = |attempt| super::fixture::fail(job(1), attempt, worker(1), false);
    cluster.apply(award(1)).unwrap();
    cluster.apply(fail(1)).unwrap();
    let failed = cluster.last();
    cluster.apply(Command::Retry { job: job(1) }).unwrap();
    let refund = |seq| vec![item(begin, job(1), Stage::Register), item(seq, job(1), Stage::Refund)];
    assert!(matches!(cluster.prepare(0, 1, refund(failed)), Err(Refusal::NotPlanned(_))), "it goes on");
    cluster.apply(award(2)).unwrap();
    cluster.apply(fail(2)).unwrap();
    let failed = cluster.last();
    cluster.prepare(0, 1, refund(failed)).unwrap();
    assert_eq!(cluster.apply(Command::Retry { job: job(1) }), Err(Refusal::Refunded { job: job(1) }));
}

#[test]
fn another_contract_is_taken_only_when_an_operator_says_so() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    assert!(matches!(cluster.act(Act::Claim { site: site(2), least: 0 }), Err(Refusal::OtherChain { .. })));
    cluster.act(Act::Reset { site: site(2) }).unwrap();
    assert_eq!(cluster.0.chain().again_len(), 1, "what was in flight is planned again");
    assert_eq!(cluster.act(Act::Claim { site: site(2), least: 0 }), Ok(Done::Epoch(2)));
}

#[test]
fn jobs_and_payments_come_from_the_contract_and_blocks_that_are_read_again_count_once() {
    let mut cluster = Cluster::new();
    let id = job(9);
    let mut spec = spec(b"x");
    spec.settlement =
        Some(Terms { policy: Policy::RegisterBeforeDistribution, confirmation: Confirmation::AcceptedL2 });
    let Command::Submit(mut submit) = submit(id, spec, b"x") else { unreachable!() };
    submit.source = Source::Chain;
    let theirs = U256 { high: 0, low: 4 };
    let arrivals = vec![Arrival { job: theirs, submit: Some(submit) }, Arrival { job: theirs, submit: None }];
    let payment = Payment { job: theirs, block: 12, payee: felt(3), amount: 70 };
    let read = |from, number, arrivals, payments| Act::Followed {
        from,
        to: Block { number, hash: felt(number) },
        arrivals,
        payments,
    };
    cluster.act(read(10, 11, arrivals.clone(), vec![])).unwrap();
    assert!(!cluster.0.job(id).unwrap().awaits_chain, "it is registered already");
    assert_eq!((cluster.0.chain().totals().arrived, cluster.0.chain().totals().refused), (1, 1));
    cluster.act(read(12, 12, vec![], vec![payment.clone()])).unwrap();
    let paid = |cluster: &Cluster| cluster.0.chain().settlement(id).unwrap().paid();
    assert_eq!(paid(&cluster), 70);
    assert!(matches!(cluster.act(read(12, 12, vec![], vec![payment.clone()])), Err(Refusal::NotPlanned(_))));
    cluster.act(Act::Rewind { to: 11 }).unwrap();
    assert_eq!(paid(&cluster), 0);
    cluster.act(read(11, 12, arrivals, vec![payment])).unwrap();
    assert_eq!((paid(&cluster), cluster.0.submitted_total()), (70, 1));
}

#[test]
fn a_registration_that_does_not_say_where_to_pay_leaves_what_was_said() {
    let mut cluster = Cluster::new();
    let register = |payout_address| {
        let Command::RegisterWorker { worker, mut capabilities, location, version } = register(worker(1), 4) else {
            unreachable!()
        };
        capabilities.payout_address = payout_address;
        Command::RegisterWorker { worker, capabilities, location, version }
    };
    let paid_to = |cluster: &Cluster| cluster.0.worker(worker(1)).unwrap().capabilities.payout_address;
    for (said, known) in
        [(None, None), (Some(felt(5)), Some(felt(5))), (None, Some(felt(5))), (Some(felt(6)), Some(felt(6)))]
    {
        cluster.apply(register(said)).unwrap();
        assert_eq!(paid_to(&cluster), known);
    }
}

#[test]
fn more_than_the_network_takes_is_refused() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    let mut long = item(seq, job(1), Stage::Register);
    long.calls[0].calldata = vec![felt(1); FELTS_MAX + 1];
    assert!(matches!(cluster.prepare(0, 1, vec![long.clone()]), Err(Refusal::Invalid(_))));
    let park = Act::Park { parked: vec![(long, "no".into(), "too long".into())], through: seq };
    assert!(matches!(cluster.act(park), Err(Refusal::Invalid(_))));
    assert!(matches!(cluster.prepare(0, 1, vec![]), Err(Refusal::Invalid(_))));
}

#[test]
fn with_a_forgotten_job_goes_what_is_kept_of_it_on_chain() {
    let mut cluster = Cluster::new();
    cluster.apply(register(worker(1), 200)).unwrap();
    for n in 1..=40 {
        let seq = cluster.submit(job(n), Policy::SettleLater);
        cluster.prepare(n.into(), n.into(), vec![item(seq, job(n), Stage::Register)]).unwrap();
        cluster.land(n.into(), landed(n.into(), Confirmation::AcceptedL2, None)).unwrap();
        let (id, price) = (job(n), Price(1));
        cluster
            .apply(Command::Assign { job: id, attempt: 1, worker: worker(1), price, lease_ms: 99, evidence: None })
            .unwrap();
        cluster.apply(complete(job(n), 1, worker(1), b"out")).unwrap();
        let through = cluster.last();
        cluster.act(Act::Skip { through }).unwrap();
    }
    let forgotten = (1..=40).filter(|n| cluster.0.job(job(*n)).is_none()).count();
    let kept = (1..=40).filter(|n| cluster.0.chain().settlement(job(*n)).is_some()).count();
    assert!(forgotten > 0);
    assert_eq!(kept, 40 - forgotten);
}
