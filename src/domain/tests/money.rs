//! Money is not lost to a wrong site, a dear job, or jobs of strangers.

use super::chain::{Cluster, felt, item, landed, site};
use super::fixture::{SMALL, complete, fail, job, register, spec, submit, worker};
use crate::domain::chain::{
    Act, Arrival, Block, Confirmation, ESCROW_LOW, Item, Payment, Policy, Site, Stage, Terms, U256,
};
use crate::domain::command::{Command, Done, Refusal, Reply};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::{JobState, Source};
use crate::domain::journal::Sink;

fn claim(cluster: &mut Cluster, site: Site) -> Reply {
    cluster.act(Act::Claim { site, least: 0 })
}

fn park(cluster: &mut Cluster, item: Item, code: &str) -> Reply {
    let through = cluster.last();
    cluster.act(Act::Park { parked: vec![(item, code.into(), "why".into())], through })
}

fn award(id: JobId) -> Command {
    Command::Assign { job: id, attempt: 1, worker: worker(1), price: Price(1), lease_ms: 99, evidence: None }
}

fn read(from: u64, number: u64, arrivals: Vec<Arrival>, payments: Vec<Payment>) -> Act {
    Act::Followed { from, to: Block { number, hash: felt(number) }, arrivals, payments }
}

/// Job `n`, as the contract counts it.
fn arrival(n: u8) -> Arrival {
    let mut spec = spec(b"x");
    spec.settlement = Some(Terms { policy: Policy::SettleLater, confirmation: Confirmation::AcceptedL2 });
    let Command::Submit(mut submit) = submit(job(n), spec, b"x") else { unreachable!() };
    submit.source = Source::Chain;
    Arrival { job: U256 { high: 0, low: n.into() }, submit: Some(submit) }
}

#[test]
fn a_site_that_was_a_mistake_is_replaced_without_a_word_while_nothing_is_noted_of_it() {
    let mut cluster = Cluster::new();
    let seq = cluster.submit(job(1), Policy::SettleLater);
    // Its blocks were read, and held nothing.
    cluster.act(read(10, 20, vec![], vec![])).unwrap();
    assert_eq!(claim(&mut cluster, site(2)), Ok(Done::Epoch(2)));
    let chain = cluster.0.chain();
    assert_eq!((chain.site(), chain.next_block(), chain.tail().len()), (Some(&site(2)), None, 0));
    let back = Site { chain_id: felt(9), ..site(1) };
    assert_eq!(claim(&mut cluster, back.clone()), Ok(Done::Epoch(3)));
    // What happened meanwhile is settled there.
    assert_eq!(cluster.0.journal().cursor(Sink::Chain), Some(0));
    cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    assert!(matches!(claim(&mut cluster, site(1)), Err(Refusal::OtherChain { .. })));
    assert_eq!(cluster.0.chain().site(), Some(&back));
}

/// What happens to a cluster whose first job has this entry.
type Story<'a> = &'a dyn Fn(&mut Cluster, u64);

#[test]
fn a_site_stays_once_anything_was_prepared_parked_or_taken_from_it() {
    let prepared = |cluster: &mut Cluster, seq| {
        cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    };
    let stories: [(&str, Story); 6] = [
        ("in flight", &prepared),
        ("landed and closed", &|cluster, seq| {
            prepared(cluster, seq);
            cluster.land(0, landed(1, Confirmation::AcceptedL2, None)).unwrap();
            cluster.act(Act::Close { nonce: 0 }).unwrap();
        }),
        ("given up", &|cluster, seq| {
            prepared(cluster, seq);
            cluster.act(Act::Abandon { nonce: 0 }).unwrap();
        }),
        ("parked", &|cluster, seq| drop(park(cluster, item(seq, job(1), Stage::Register), "no_reward").unwrap())),
        ("taken from the chain", &|cluster, _| drop(cluster.act(read(1, 2, vec![arrival(9)], vec![])).unwrap())),
        ("refused from the chain", &|cluster, _| {
            let theirs = Arrival { submit: None, ..arrival(9) };
            cluster.act(read(1, 2, vec![theirs], vec![])).unwrap();
        }),
    ];
    for (what, story) in stories {
        let mut cluster = Cluster::new();
        let seq = cluster.submit(job(1), Policy::SettleLater);
        story(&mut cluster, seq);
        assert!(matches!(claim(&mut cluster, site(2)), Err(Refusal::OtherChain { .. })), "{what}");
        assert!(claim(&mut cluster, site(1)).is_ok(), "{what}");
    }
}

#[test]
fn a_job_waits_for_a_registration_that_waits_for_funds_and_fails_with_any_other() {
    for (code, state) in [(ESCROW_LOW, JobState::Pending), ("spec_mismatch", JobState::Failed)] {
        let mut cluster = Cluster::new();
        let seq = cluster.submit(job(1), Policy::RegisterBeforeDistribution);
        park(&mut cluster, item(seq, job(1), Stage::Register), code).unwrap();
        let found = cluster.0.job(job(1)).unwrap();
        assert_eq!((found.state, found.awaits_chain), (state, true), "{code}");
    }
}

#[test]
fn a_job_that_waits_for_funds_runs_when_they_are_there_or_is_taken_back() {
    let waiting = || {
        let mut cluster = Cluster::new();
        let seq = cluster.submit(job(1), Policy::RegisterBeforeDistribution);
        park(&mut cluster, item(seq, job(1), Stage::Register), ESCROW_LOW).unwrap();
        cluster.apply(register(worker(1), 4)).unwrap();
        assert!(cluster.apply(award(job(1))).is_err(), "it is not registered");
        (cluster, seq)
    };
    let (mut cluster, seq) = waiting();
    cluster.act(Act::Retry { seq }).unwrap();
    cluster.prepare(0, 1, vec![item(seq, job(1), Stage::Register)]).unwrap();
    cluster.land(0, landed(1, Confirmation::AcceptedL2, None)).unwrap();
    assert!(cluster.apply(award(job(1))).is_ok());

    let (mut cluster, seq) = waiting();
    cluster.apply(Command::Cancel { job: job(1), reason: String::new() }).unwrap();
    assert_eq!(cluster.0.job(job(1)).unwrap().state, JobState::Cancelled);
    cluster.act(Act::Drop { seq }).unwrap();
    assert_eq!(cluster.0.chain().parked_len(), 0);
}

#[test]
fn escrow_goes_back_only_of_jobs_that_failed_or_were_cancelled() {
    let stories: [(&str, Vec<Command>, bool); 5] = [
        ("pending", vec![], false),
        ("assigned", vec![award(job(1))], false),
        ("completed", vec![award(job(1)), complete(job(1), 1, worker(1), b"y")], false),
        ("failed", vec![award(job(1)), fail(job(1), 1, worker(1), false)], true),
        ("cancelled", vec![Command::Cancel { job: job(1), reason: String::new() }], true),
    ];
    for (what, commands, goes_back) in stories {
        let mut cluster = Cluster::new();
        cluster.apply(register(worker(1), 4)).unwrap();
        let begin = cluster.submit(job(1), Policy::SettleLater);
        cluster.prepare(0, 1, vec![item(begin, job(1), Stage::Register)]).unwrap();
        for command in commands {
            cluster.apply(command).unwrap();
        }
        // Something else that happened, should nothing have happened to it.
        cluster.submit(job(2), Policy::SettleLater);
        let refund = item(begin + 1, job(1), Stage::Refund);
        let before = cluster.0.clone();
        match cluster.prepare(1, 2, vec![refund]) {
            Ok(_) => assert!(goes_back, "{what}"),
            Err(Refusal::NotPlanned(why)) => {
                assert!(!goes_back && why.contains("reopened"), "{what}: {why}");
                assert_eq!(
                    (cluster.0.chain(), before.chain().waiting().count()),
                    (before.chain(), 1),
                    "nothing is done"
                );
            }
            Err(other) => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn more_jobs_from_the_chain_than_there_is_room_for_are_taken_whole_or_not_at_all() {
    let mut cluster = Cluster::new();
    let ours = cluster.submit(job(1), Policy::SettleLater);
    cluster.prepare(0, 1, vec![item(ours, job(1), Stage::Register)]).unwrap();
    cluster.land(0, landed(1, Confirmation::AcceptedL2, None)).unwrap();
    let paid = Payment { job: U256::of(job(1)), block: 5, payee: felt(3), amount: 70 };
    let room = SMALL.backlog - 1;
    let many: Vec<Arrival> = (10..).take(room + 1).map(arrival).collect();
    let before = cluster.0.clone();
    let all = read(5, 6, many.clone(), vec![paid.clone()]);
    assert!(matches!(cluster.act(all.clone()), Err(Refusal::BacklogFull { .. })));
    assert_eq!(cluster.0.chain(), before.chain(), "no job, no payment, and the blocks are read again");
    assert_eq!(cluster.0.job(job(10)).map(|job| job.id), None);

    // There is room: all are taken, and those that are known already need none.
    cluster.apply(Command::Cancel { job: job(1), reason: String::new() }).unwrap();
    assert_eq!(cluster.act(all), Ok(Done::Booked));
    let chain = cluster.0.chain();
    assert_eq!((chain.totals().arrived, chain.next_block()), (room as u64 + 1, Some(7)));
    assert_eq!(chain.settlement(job(1)).unwrap().paid(), 70);
    assert_eq!(cluster.act(read(7, 8, many, vec![])), Ok(Done::Booked), "told again");
}
