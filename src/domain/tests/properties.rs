//! Any commands, sensible or not, in any order: what must hold, holds.
//!
//! A case is a list of numbers. Each is turned into a command with the state at
//! hand, so that most commands nearly fit it and many do: attempts one off,
//! workers that hold something else, clocks that jump back.

use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::chain::{check_books, felt, item, landed, site, transaction};
use super::fixture::{SMALL, bytes, check, complete, fail, job, register, reread, spec, submit, worker};
use super::kafka::{letter, partition};
use crate::domain::apply::Position;
use crate::domain::apply::retain::SEALED_MAX;
use crate::domain::archive::Retain;
use crate::domain::callback::Called;
use crate::domain::chain::{Act, Block, Confirmation, Item as ChainItem, Landed, Policy, Stage, Terms};
use crate::domain::command::{Command, Done, Record, Refusal, Reply};
use crate::domain::ids::{JobId, Price};
use crate::domain::job::{Cause, Job, JobState, Retry};
use crate::domain::journal::{OVERRUN, Sink};
use crate::domain::kafka::{Ingest, Item, Taken};
use crate::domain::state::State;
use crate::domain::time::Timestamp;
use crate::domain::worker::Verdict;

/// Numbers that become one record: how far the clock moves, and its commands.
pub(super) type Draft = (i16, Vec<[u8; 6]>);

pub(super) fn record(state: &State, (step, drafts): &Draft) -> Record {
    let at = state.now().0.saturating_add_signed(i64::from(*step)).max(1_000);
    Record { at: Timestamp(at), commands: drafts.iter().map(|draft| command(state, draft)).collect() }
}

fn command(state: &State, &[kind, which, who, nudge, a, b]: &[u8; 6]) -> Command {
    let held: Vec<JobId> = state.held_runs().map(|(job, _)| job.id).collect();
    let about_an_attempt = kind % 31 >= 15 && which % 4 != 0 && !held.is_empty();
    let job = if about_an_attempt { held[usize::from(which) % held.len()] } else { job(which % 12) };
    let known = state.job(job);
    let run = known.and_then(|job| {
        let going: Vec<_> = job.runs_in_force().collect();
        going.get(usize::from(nudge / 8) % going.len().max(1)).copied().or(job.runs.first())
    });
    let holder = run.map(|run| run.award.worker);
    // Who is to get a run is anybody; who speaks about one mostly has it.
    let awarded = (11..=14).contains(&(kind % 31));
    let worker = holder.filter(|_| who % 4 != 0 && !awarded).unwrap_or(worker(who / 4 % 4));
    let newest = known.map_or(0, |job| job.attempt);
    let attempt = run.map_or(newest, |run| run.attempt);
    let said = attempt.saturating_add_signed(i32::from(nudge % 8 == 0) - i32::from(nudge % 8 == 1));
    let next = newest.saturating_add(1).saturating_add(u32::from(nudge % 8 == 0));
    let lease_ms = u64::from(a) * 50;
    match kind % 31 {
        0..=4 => draft_submit(state, job, a, b),
        5 if a % 3 == 0 => Command::Cancel { job, reason: "no longer wanted".to_owned() },
        5..=7 => register(worker, u32::from(worker.0[0]) + 1),
        8 if a % 6 == 0 => Command::UnregisterWorker { worker },
        8 => Command::Drain { worker },
        9 => Command::Resume { worker },
        10 => Command::SetVerdict {
            worker,
            verdict: [Verdict::Online, Verdict::Unhealthy, Verdict::Offline][a as usize % 3],
        },
        11..=14 => {
            Command::Assign { job, attempt: next, worker, price: Price(u128::from(b) / 2), lease_ms, evidence: None }
        }
        15 | 16 => Command::Started { job, attempt: said, worker },
        17 if a % 2 == 0 => Command::Renew { job, attempt: said, lease_ms },
        18 => Command::Expire { job, attempt: said },
        19 => Command::Decline { job, attempt: said, worker },
        25 if b % 8 == 7 => {
            let event = state.callbacks().after(0).nth(usize::from(a % 4)).map_or(999, |notice| notice.event);
            let called = match nudge % 2 {
                0 => Called::Delivered { tries: 1 },
                _ => Called::GivenUp { tries: 3, code: "timeout".into() },
            };
            Command::CalledBack { event, called }
        }
        17 | 20 | 24 | 25 if known.is_some_and(|job| job.spec.redundancy > 1) => {
            complete(job, said, worker, &[b % 4 / 3])
        }
        17 | 20 | 24 | 25 => complete(job, said, worker, &vec![b; a.into()]),
        21 => fail(job, said, worker, b % 4 != 0),
        22 if a % 2 == 0 => Command::Retry { job },
        22 => Command::PassDeadline { job },
        26 => draft_ingest(state, which, nudge, a, b),
        27 if a % 8 == 3 && nudge % 4 == 0 => Command::Retain(draft_retain(state, a, b)),
        27 if a % 8 == 0 => Command::ForgetSink { sink: if b % 2 == 0 { Sink::Kafka } else { Sink::Chain } },
        27 if a % 8 == 1 => Command::SeekIntake { partition: partition(b % 3), next: u64::from(b) / 16 },
        27 if a % 16 == 2 => Command::ResetIntake { cluster: ["one", "two"][usize::from(b % 2)].to_owned() },
        27 => {
            let letter = state.kafka().letters_after(None).nth(usize::from(a % 4)).map_or(999, |dead| dead.id);
            if b % 2 == 0 { Command::ReplayLetter { letter } } else { Command::DropLetter { letter } }
        }
        28..=30 => draft_chain(state, which, nudge, a, b),
        _ => Command::Delivered {
            sink: if b % 2 == 0 { Sink::Kafka } else { Sink::Chain },
            through: state.journal().last_seq().saturating_sub(u64::from(a) / 16).saturating_add(u64::from(a % 9 == 8)),
        },
    }
}

/// A batch that begins at the replicated offset, or a little before or after it.
fn draft_ingest(state: &State, which: u8, nudge: u8, a: u8, b: u8) -> Command {
    let partition = partition(a % 3);
    let known = state.kafka().next_offset(&partition).unwrap_or(0);
    let from = (known + u64::from(nudge % 3)).saturating_sub(1);
    let item = |at: u8| match (b / 4 + at) % 4 {
        0 => Taken::Letter(Box::new(letter(partition.clone(), from + u64::from(at), usize::from(nudge)))),
        _ => match draft_submit(state, job(which.wrapping_add(at) % 12), a, b) {
            Command::Submit(submit) => Taken::Job(submit),
            _ => unreachable!(),
        },
    };
    let items: Vec<Item> = (0..b % 4).map(|at| Item { offset: from + u64::from(at), taken: item(at) }).collect();
    let next = from + u64::from(b % 4) + u64::from(nudge % 2);
    let cluster = if nudge % 16 == 5 { "two" } else { "one" };
    Command::Ingest(Box::new(Ingest { cluster: cluster.to_owned(), partition, from: 0, items, next }))
}

/// Holds other numbers of jobs, or removes some.
fn draft_retain(state: &State, a: u8, b: u8) -> Retain {
    match b % 4 {
        0 => Retain::Hold { hot: u32::from(a / 16 % 4), batch: u32::from(b / 4 % 3) },
        1 => Retain::Expire { before: Timestamp(state.now().0.saturating_sub(u64::from(b) * 20)) },
        _ => Retain::Drop { through: (state.archive().dropped() + u64::from(a / 64)).saturating_sub(1) },
    }
}

/// Something about the books that nearly fits them.
fn draft_chain(state: &State, which: u8, nudge: u8, a: u8, b: u8) -> Command {
    let chain = state.chain();
    let nonces: Vec<u64> = chain.lane().map(|(nonce, _)| nonce).collect();
    let nonce = nonces.get(usize::from(b) % nonces.len().max(1)).copied().unwrap_or(0);
    let cursor = state.journal().cursor(Sink::Chain).unwrap_or(0);
    Command::Chain(match which % 16 {
        0 => Act::Claim { site: site(u64::from(a / 250 + 1)), least: u64::from(b % 4) },
        1..=6 => draft_prepare(state, nonce, nudge, a, b),
        7..=9 => {
            let reverted = a.is_multiple_of(3).then_some("('NO_ROOM')");
            let known = chain.slot(nonce).and_then(|slot| slot.newest()).map_or(felt(1), |newest| newest.hash);
            let confirmation = [Confirmation::Preconfirmed, Confirmation::AcceptedL2][usize::from(b / 128)];
            Act::Landed { nonce, landed: Box::new(Landed { hash: known, ..landed(1, confirmation, reverted) }) }
        }
        10 => Act::Lost { nonce },
        11 => Act::Close { nonce },
        12 => Act::Abandon { nonce },
        13 => {
            let items = due(state, usize::from(a % 3));
            let through = items.iter().map(|item| item.seq).fold(cursor, u64::max);
            let parked = items.into_iter().map(|item| (item, "no".into(), "it is not to be".into())).collect();
            Act::Park { parked, through }
        }
        14 => match chain.parked_after(None).nth(usize::from(a % 3)) {
            Some(parked) if b.is_multiple_of(3) => Act::Drop { seq: parked.item.seq },
            parked => Act::Retry { seq: parked.map_or(1, |parked| parked.item.seq) },
        },
        _ => match a % 4 {
            0 => Act::Skip { through: cursor + u64::from(b % 4) },
            1 if b.is_multiple_of(8) => Act::Reset { site: site(u64::from(b / 128 + 1)) },
            1 => Act::Rewind { to: u64::from(b / 32) },
            _ => {
                let from = chain.next_block().unwrap_or(1);
                Act::Followed { from, to: Block { number: from, hash: felt(from) }, arrivals: vec![], payments: vec![] }
            }
        },
    })
}

/// At most `most` items that may be planned.
fn due(state: &State, most: usize) -> Vec<ChainItem> {
    let cursor = state.journal().cursor(Sink::Chain).unwrap_or(0);
    let entries = state.journal().after(cursor, 8);
    let new =
        entries.iter().filter_map(|entry| Stage::of(&entry.event).map(|(job, stage)| item(entry.seq, job, stage)));
    state.chain().again().map(|again| again.item.clone()).chain(new).take(most).collect()
}

fn draft_prepare(state: &State, nonce: u64, nudge: u8, a: u8, b: u8) -> Act {
    let chain = state.chain();
    let epoch = chain.epoch().saturating_sub(u64::from(nudge.is_multiple_of(16)));
    let cursor = state.journal().cursor(Sink::Chain).unwrap_or(0);
    let (nonce, items) = match chain.slot(nonce) {
        Some(slot) if nudge % 4 == 1 => (nonce, slot.items().to_vec()),
        _ => (chain.next_nonce().unwrap_or(0) + u64::from(nudge % 16 == 2), due(state, usize::from(a % 4))),
    };
    let through = items.iter().map(|item| item.seq).fold(cursor, u64::max);
    Act::Prepare { transaction: Box::new(transaction(nonce, u64::from(b) + 256 * nonce, epoch, items)), through }
}

fn draft_submit(state: &State, job: JobId, a: u8, b: u8) -> Command {
    let payload = vec![a % 3; usize::from(b) * 2];
    let mut spec = spec(&payload);
    spec.kind = ["sha256", "wordcount"][usize::from(b / 16 % 2)].to_owned();
    spec.priority = a % 12;
    spec.callback_url = [None, Some("https://a/"), Some("http://b:1/x")][usize::from(a % 3)].map(Into::into);
    spec.requirements.min_cpu_cores = u32::from(a % 3);
    spec.client_address = [None, Some("0x1"), Some("0x2")][usize::from(b % 3)].map(Into::into);
    spec.retry =
        Retry { max_attempts: u32::from(a % 9), initial_delay_ms: u64::from(b) * 10, ..Retry::default() }.into();
    spec.redundancy = if a % 3 == 1 { 2 + b / 16 % 3 } else { 1 };
    spec.max_price = a.is_multiple_of(2).then_some(Price(100));
    let policy = if (b / 8).is_multiple_of(4) { Policy::RegisterBeforeDistribution } else { Policy::SettleLater };
    let confirmation = Confirmation::Preconfirmed;
    spec.settlement = (b / 64 == 1).then_some(Terms { policy, confirmation });
    spec.deadline = b.is_multiple_of(3).then_some(state.now().after_ms(u64::from(a) * 100));
    submit(job, spec, &payload)
}

/// A record seals what is too much for memory, or as much as a record may.
fn check_sealed(was: &State, is: &State) {
    let sealed = is.archive().last() - was.archive().last();
    assert!(sealed <= SEALED_MAX, "a record sealed {sealed} segments");
    if sealed < SEALED_MAX && is.journal().undelivered() == 0 {
        let (hot, batch) = is.hold();
        assert!(is.index.finished.len() < hot.max(is.settling_most()) + batch);
        assert!(is.index.finished.len() < is.limits.finished * 2);
        assert!(is.index.finished_bytes <= is.limits.finished_bytes);
    }
}

/// What must hold between a state and the next.
pub(super) fn check_step(was: &State, is: &State, record: &Record, replies: &[Reply]) {
    assert_eq!(record.commands.len(), replies.len());
    check_books(is);
    assert!(is.now() >= was.now() && is.now() >= record.at, "the clock went back");
    assert_ne!(is.hash(), was.hash());
    assert!(is.journal().last_seq() >= was.journal().last_seq());
    for (sink, cursor) in was.journal().cursors() {
        let forgotten = record.commands.contains(&Command::ForgetSink { sink });
        assert!(forgotten || is.journal().cursor(sink) >= Some(cursor), "a cursor went back");
    }
    let dropped = is.journal().first_seq() > was.journal().first_seq();
    if dropped && is.journal().len() < is.limits.journal_max * OVERRUN {
        let needed = is.journal().cursors().map(|(_, cursor)| cursor + 1).min();
        assert!(
            needed.is_none_or(|needed| is.journal().first_seq() <= needed),
            "an entry went before every sink had it"
        );
    }
    check_sealed(was, is);
    let common = was.journal().last_seq().min(is.journal().last_seq());
    let from = is.journal().first_seq().max(was.journal().first_seq());
    for entry in is.journal().after(from.saturating_sub(1), usize::MAX).iter().filter(|entry| entry.seq <= common) {
        assert_eq!(was.journal().after(entry.seq - 1, 1).first(), Some(entry), "a journal entry changed");
    }
    for job in was.jobs_after(None) {
        let Some(now) = is.job(job.id).filter(|now| now.submitted_index == job.submitted_index) else { continue };
        let reopened = now.history.iter().filter(|line| line.cause == Cause::Reopened && line.index == is.applied());
        if reopened.count() > 0 {
            assert!(now.attempt >= job.attempt);
            continue;
        }
        assert!(now.attempt >= job.attempt && now.failures >= job.failures, "an attempt was taken back");
        if job.state.is_final() {
            assert_eq!(kept(now), kept(job), "a finished job changed, and not only how its client is told");
            let called = |job: &Job| job.callback.as_ref().map(|callback| (callback.event, callback.called.clone()));
            let open = called(job).is_some_and(|(_, called)| called.is_none());
            assert!(open || called(now) == called(job), "what came of a callback changed");
        }
    }
    let quiet = replies.iter().all(|reply| matches!(reply, Err(_) | Ok(Done::Unchanged)));
    // Time alone draws reputations back, once an hour.
    if quiet && is.drawn_at == was.drawn_at {
        assert!(
            is.jobs == was.jobs && is.workers == was.workers && is.payloads == was.payloads,
            "a refusal had effects"
        );
    }
}

/// What of a finished job stays: not how its client is told, and the evidence of its awards goes beyond its bound.
fn kept(job: &Job) -> Job {
    let mut job = Job { callback: None, ..job.clone() };
    job.runs.iter_mut().for_each(|run| run.award.evidence = None);
    job
}

/// Applies a whole case, checking after every record; returns the state and the records.
fn play(drafts: &[Draft]) -> (State, Vec<Record>) {
    let mut state = State::within(SMALL);
    let mut records = Vec::new();
    for (index, draft) in (1..).zip(drafts) {
        let was = state.clone();
        let (was_bytes, record) = (bytes(&was), record(&state, draft));
        let replies = state.apply(position(index), &record);
        check(&state);
        check_step(&was, &state, &record, &replies);
        assert_eq!(bytes(&was), was_bytes, "a frozen view changed");
        records.push(record);
    }
    (state, records)
}

fn position(index: u64) -> Position {
    Position { index, term: 1 + index / 10 }
}

fn apply_all(state: &mut State, records: &[Record]) -> Vec<Reply> {
    let from = state.applied() + 1;
    (from..).zip(records).flat_map(|(index, record)| state.apply(position(index), record)).collect()
}

fn drafts() -> impl proptest::strategy::Strategy<Value = Vec<Draft>> {
    let commands = prop::collection::vec(any::<[u8; 6]>(), 0..6);
    prop::collection::vec((-500i16..3_000, commands), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_the_same_log_gives_the_same_bytes(drafts in drafts()) {
        let (state, records) = play(&drafts);
        let mut twin = State::within(SMALL);
        apply_all(&mut twin, &records);
        assert_eq!(twin.hash(), state.hash());
        assert_eq!(bytes(&twin), bytes(&state));
        let mut state = state;
        assert_eq!(twin.take_sealed(), state.take_sealed(), "segments differ");
    }

    #[test]
    fn a_snapshot_at_any_prefix_and_the_rest_give_the_same_bytes(
        drafts in drafts(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (state, records) = play(&drafts);
        let (before, rest) = records.split_at(cut.index(records.len() + 1));
        let mut original = State::within(SMALL);
        apply_all(&mut original, before);
        let mut restored = reread(&original);
        original.take_sealed();
        assert_eq!(apply_all(&mut restored, rest), apply_all(&mut original, rest));
        assert_eq!(restored.hash(), state.hash());
        assert_eq!(bytes(&restored), bytes(&state));
        assert_eq!(restored.take_sealed(), original.take_sealed(), "segments differ");
        check(&restored);
    }
}

/// The random commands are worth something only if they get somewhere.
#[test]
fn random_commands_reach_every_state_and_most_refusals() {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut ended, mut codes) = ([0u64; 3], std::collections::BTreeSet::new());
    let (mut voted, mut elected) = (0, 0);
    // Some are rare: as many cases as it takes, within reason.
    for case in 0..2_000 {
        if case >= 300 && codes.len() == 21 {
            break;
        }
        let drafts = drafts().new_tree(&mut runner).unwrap().current();
        let mut state = State::within(SMALL);
        for (index, draft) in (1..).zip(&drafts) {
            let record = record(&state, draft);
            let replies = state.apply(position(index), &record);
            voted += usize::from(state.ballots.len() > 0);
            let compared = |job: &&std::sync::Arc<Job>| job.spec.redundancy > 1 && job.finished_at == Some(state.now());
            elected += state.jobs_after(None).filter(compared).filter(|job| job.outcome.is_some()).count();
            codes.extend(replies.into_iter().filter_map(Result::err).map(|refusal: Refusal| refusal.code()));
        }
        let states = [JobState::Completed, JobState::Failed, JobState::Cancelled];
        for (sum, state_of) in ended.iter_mut().zip(states) {
            *sum += state.ended_total(state_of);
        }
    }
    assert!(ended.iter().all(|count| *count > 20), "{ended:?}");
    assert!(voted > 20 && elected > 0, "{voted} states with votes, {elected} jobs were decided by them");
    assert_eq!(codes.len(), 21, "{codes:?}");
}
