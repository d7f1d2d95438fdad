//! The checker on histories that are known to be good, and on some known to be bad: each rule can fail.
//!
//! No cluster, no clock: run them alone with `cargo test --test cluster history::`.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::model::{Answer, Call, Phase, Sight};
use super::{Fresh, History, NEVER, Op, Request, judge};

/// A history under construction: one line, one request about one job.
#[derive(Default)]
struct Story {
    history: History,
}

const SUBMIT: Call = Call::Submit { body: 0 };

fn seen(phase: Phase, attempt: u32) -> Answer {
    Answer::Seen(Sight::new(phase, attempt))
}

impl Story {
    /// Client `session` asks node `session`, from `start` to `end` in milliseconds, about job 0.
    fn op(mut self, session: usize, (start, end): (u64, u64), call: Call, answer: Answer) -> Self {
        let unknown = answer == Answer::Unknown;
        self.history.names = vec!["job".to_owned(), "other".to_owned()];
        self.history.requests.push(Request {
            session,
            node: session,
            life: Some(1),
            fresh: Fresh::Linearizable,
            start: start * 1_000,
            end: if unknown { NEVER } else { end * 1_000 },
            applied: None,
            staleness: None,
            status: if unknown { 0 } else { 200 },
            code: String::new(),
        });
        let request = self.history.requests.len() - 1;
        self.history.ops.push(Op { request, key: 0, call, answer, index: None, submitted: None, body: None });
        self
    }

    fn look(self, session: usize, times: (u64, u64), phase: Phase, attempt: u32) -> Self {
        self.op(session, times, Call::Look, seen(phase, attempt))
    }

    /// The last request said so in its headers, and its body was of that index.
    fn at(mut self, index: u64, staleness: u64) -> Self {
        let request = self.history.requests.last_mut().unwrap();
        (request.applied, request.staleness) = (Some(index), Some(staleness));
        let op = self.history.ops.last_mut().unwrap();
        op.index = (op.call == Call::Look).then_some(index);
        self
    }

    fn node(mut self, node: usize) -> Self {
        self.history.requests.last_mut().unwrap().node = node;
        self
    }

    fn fresh(mut self, fresh: Fresh) -> Self {
        self.history.requests.last_mut().unwrap().fresh = fresh;
        self
    }

    fn submitted(mut self, index: u64) -> Self {
        self.history.ops.last_mut().unwrap().submitted = Some(index);
        self
    }

    fn job(mut self, key: usize) -> Self {
        self.history.ops.last_mut().unwrap().key = key;
        self
    }

    fn code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.history.requests.last_mut().unwrap().code);
        self
    }

    /// The rules that are broken.
    fn rules(&self) -> Vec<&'static str> {
        let mut rules: Vec<_> = judge(&self.history).violations.into_iter().map(|violation| violation.rule).collect();
        rules.dedup();
        rules
    }

    fn holds(&self) {
        let violations = judge(&self.history).violations;
        assert!(violations.is_empty(), "{}", violations[0]);
    }

    fn breaks(&self, rule: &str) {
        assert_eq!(self.rules(), [rule]);
    }
}

fn story() -> Story {
    Story::default()
}

fn submitted() -> Story {
    story().op(0, (0, 10), SUBMIT, Answer::Created)
}

#[test]
fn a_job_lives_its_life() {
    submitted()
        .look(1, (11, 12), Phase::Pending, 0)
        .look(1, (13, 14), Phase::Running, 1)
        .look(2, (15, 16), Phase::Pending, 1)
        .look(1, (17, 18), Phase::Assigned, 2)
        .look(2, (19, 20), Phase::Failed, 2)
        .op(0, (21, 22), Call::Retry, Answer::Done)
        .look(2, (23, 24), Phase::Pending, 2)
        .look(1, (25, 26), Phase::Completed, 3)
        .op(1, (27, 28), Call::Cancel, Answer::Ended(Phase::Completed))
        .op(1, (29, 30), SUBMIT, Answer::Existing)
        .op(1, (29, 30), Call::Submit { body: 1 }, Answer::Conflict)
        .holds();
}

#[test]
fn what_is_concurrent_may_be_in_any_order() {
    story()
        .op(0, (0, 100), SUBMIT, Answer::Existing)
        .op(1, (50, 60), SUBMIT, Answer::Created)
        .op(2, (10, 55), Call::Look, Answer::Absent)
        .op(3, (58, 200), Call::Cancel, Answer::Done)
        .look(2, (70, 90), Phase::Running, 1)
        .look(2, (91, 199), Phase::Cancelled, 1)
        .holds();
}

#[test]
fn a_lost_write_is_found() {
    submitted().op(1, (11, 12), Call::Look, Answer::Absent).breaks("linearizability");
    submitted().op(1, (11, 12), SUBMIT, Answer::Created).breaks("linearizability");
    let cancelled = submitted().op(0, (11, 12), Call::Cancel, Answer::Done);
    cancelled.look(1, (13, 14), Phase::Completed, 1).breaks("linearizability");
    // Existing for whom, if it is a client's own first and only submission?
    story().op(0, (0, 10), SUBMIT, Answer::Existing).breaks("linearizability");
}

#[test]
fn a_stale_linearizable_read_is_found() {
    let read = |start, end| submitted().look(1, (11, 12), Phase::Running, 2).look(2, (start, end), Phase::Running, 1);
    read(13, 14).breaks("linearizability");
    read(11, 14).holds();
    // In time, but from an index below one that a client of another job was shown.
    let story = submitted().submitted(3).at(3, 0).op(1, (11, 12), SUBMIT, Answer::Created).job(1).at(9, 0);
    story.look(2, (13, 14), Phase::Pending, 0).at(8, 0).breaks("read index");
}

#[test]
fn a_job_that_ended_does_not_come_back() {
    let ended = || submitted().look(1, (11, 12), Phase::Completed, 1);
    ended().look(1, (13, 14), Phase::Completed, 1).holds();
    for (phase, attempt) in [(Phase::Pending, 1), (Phase::Running, 2), (Phase::Failed, 1), (Phase::Completed, 2)] {
        ended().look(2, (13, 14), phase, attempt).breaks("linearizability");
    }
    let failed = || submitted().look(1, (11, 12), Phase::Failed, 1);
    failed().look(2, (13, 14), Phase::Pending, 1).breaks("linearizability");
    failed().op(3, (0, 90), Call::Retry, Answer::Done).look(2, (13, 14), Phase::Pending, 1).holds();
    failed().op(3, (0, 0), Call::Retry, Answer::Unknown).look(2, (13, 14), Phase::Running, 2).holds();
    failed()
        .op(3, (0, 13), Call::Retry, Answer::Refused)
        .look(2, (13, 14), Phase::Running, 2)
        .breaks("linearizability");
}

#[test]
fn an_attempt_never_falls() {
    submitted().look(1, (11, 12), Phase::Running, 3).look(2, (13, 14), Phase::Assigned, 3).breaks("linearizability");
    submitted().look(1, (11, 12), Phase::Pending, 3).look(2, (13, 14), Phase::Completed, 3).breaks("linearizability");
    submitted().look(1, (11, 12), Phase::Pending, 3).look(2, (13, 14), Phase::Completed, 4).holds();
}

#[test]
fn two_answers_to_one_key_are_found() {
    let twice = submitted().submitted(3).op(1, (20, 30), SUBMIT, Answer::Existing);
    twice.submitted(4).breaks("log order");
    submitted().op(1, (11, 12), Call::Submit { body: 1 }, Answer::Existing).breaks("linearizability");
    submitted().op(1, (11, 12), SUBMIT, Answer::Conflict).breaks("linearizability");
}

#[test]
fn a_cycle_is_found() {
    // Each read is possible with each write before or after it, but not both reads at once.
    let cycle = submitted()
        .look(3, (11, 12), Phase::Failed, 1)
        .op(0, (20, 40), Call::Retry, Answer::Done)
        .op(1, (20, 40), Call::Cancel, Answer::Ended(Phase::Failed))
        .look(2, (21, 22), Phase::Pending, 1)
        .look(2, (23, 24), Phase::Cancelled, 1);
    cycle.breaks("linearizability");
    let fine = submitted()
        .look(3, (11, 12), Phase::Failed, 1)
        .op(0, (20, 40), Call::Retry, Answer::Done)
        .op(1, (20, 40), Call::Cancel, Answer::Done)
        .look(2, (21, 22), Phase::Pending, 1)
        .look(2, (23, 24), Phase::Cancelled, 1);
    fine.holds();
}

#[test]
fn an_unknown_outcome_may_come_late_or_never() {
    let doubt = || story().op(0, (0, 0), SUBMIT, Answer::Unknown);
    doubt().op(1, (50, 51), Call::Look, Answer::Absent).holds();
    doubt().op(1, (50, 51), Call::Look, Answer::Absent).look(1, (52, 53), Phase::Pending, 0).holds();
    doubt().op(1, (50, 51), SUBMIT, Answer::Existing).holds();
    doubt().op(1, (50, 51), SUBMIT, Answer::Created).holds();
    // But once, and it does not vanish again.
    doubt()
        .look(1, (50, 51), Phase::Pending, 0)
        .op(1, (52, 53), Call::Look, Answer::Absent)
        .rules()
        .iter()
        .for_each(|rule| assert!(["linearizability", "session"].contains(rule)));
    let cancel = submitted().op(0, (11, 0), Call::Cancel, Answer::Unknown).look(1, (20, 21), Phase::Running, 1);
    cancel.look(1, (90, 91), Phase::Cancelled, 1).holds();
}

#[test]
fn a_refusal_that_took_effect_is_found() {
    let refused = story().op(0, (0, 10), SUBMIT, Answer::Refused);
    assert!(refused.look(1, (50, 51), Phase::Pending, 0).rules().contains(&"out of thin air"));
    let cancelled = submitted().op(0, (11, 12), Call::Cancel, Answer::Refused).look(1, (13, 14), Phase::Cancelled, 0);
    assert!(cancelled.rules().contains(&"linearizability"));
}

#[test]
fn the_log_has_one_order() {
    let stale = |story: Story| story.fresh(Fresh::Stale);
    let two = |first: (Phase, u32, u64), second: (Phase, u32, u64)| {
        let story = stale(submitted().look(1, (11, 12), first.0, first.1).at(first.2, 0));
        stale(story.look(2, (11, 12), second.0, second.1).at(second.2, 0))
    };
    // Nodes may lag as they like, as long as they show one history.
    two((Phase::Completed, 1, 9), (Phase::Running, 1, 8)).holds();
    two((Phase::Completed, 1, 9), (Phase::Completed, 1, 9)).holds();
    two((Phase::Completed, 1, 9), (Phase::Running, 1, 9)).breaks("log order");
    two((Phase::Completed, 1, 9), (Phase::Running, 1, 10)).breaks("log order");
    let gone = stale(submitted().look(1, (11, 12), Phase::Pending, 0).submitted(5).at(7, 0));
    stale(gone.op(2, (13, 14), Call::Look, Answer::Absent).at(8, 0)).breaks("log order");
    let early = stale(submitted().submitted(5).look(1, (11, 12), Phase::Pending, 0).at(4, 0));
    early.breaks("log order");
    let early = stale(submitted().submitted(5).op(1, (11, 12), Call::Look, Answer::Absent).at(4, 0));
    early.holds();
    let again = |story: Story| stale(story.look(2, (23, 24), Phase::Pending, 1).at(9, 0));
    let failed = || stale(submitted().look(1, (11, 12), Phase::Failed, 1).at(8, 0));
    again(failed()).breaks("out of thin air");
    again(failed().op(0, (13, 0), Call::Retry, Answer::Unknown)).holds();
}

#[test]
fn a_session_reads_its_writes_and_nothing_older() {
    let session = |story: Story| story.fresh(Fresh::Session);
    let write = || submitted().at(7, 0);
    session(write().look(0, (11, 12), Phase::Pending, 0).at(7, 0)).holds();
    session(write().op(0, (11, 12), Call::Look, Answer::Absent)).breaks("session");
    // Another client has promised itself nothing.
    session(write().op(1, (11, 12), Call::Look, Answer::Absent)).holds();
    session(write().look(0, (11, 12), Phase::Pending, 0).at(6, 0).node(1)).breaks("session");
    session(write().op(0, (11, 12), Call::Look, Answer::Refused)).code("index_ahead").breaks("session");
    let read = || session(write().look(0, (11, 12), Phase::Running, 2).at(8, 0));
    session(read().look(0, (13, 14), Phase::Running, 2).node(2)).holds();
    session(read().look(0, (13, 14), Phase::Running, 1).node(2)).breaks("session");
    read().look(0, (13, 14), Phase::Running, 1).fresh(Fresh::Stale).node(2).holds();
    let cancelled = || write().op(0, (11, 12), Call::Cancel, Answer::Done);
    session(cancelled().look(0, (13, 14), Phase::Cancelled, 1)).holds();
    session(cancelled().look(0, (13, 14), Phase::Running, 1)).breaks("session");
    session(cancelled().op(0, (13, 14), Call::Look, Answer::Open)).breaks("session");
}

#[test]
fn the_applied_index_of_a_process_goes_forward() {
    let stale = |story: Story| story.fresh(Fresh::Stale);
    let two = |second: u64, life: u64| {
        let first = stale(story().op(0, (0, 10), Call::Look, Answer::Absent).at(9, 0));
        let mut both = stale(first.op(1, (11, 12), Call::Look, Answer::Absent).node(0).at(second, 5_000));
        both.history.requests[1].life = Some(life);
        both
    };
    two(9, 1).holds();
    two(8, 1).breaks("applied index");
    two(8, 2).holds();
}

#[test]
fn staleness_is_no_less_than_the_truth() {
    let answer = |staleness: u64| {
        let shown = story().op(0, (0, 10), SUBMIT, Answer::Created).at(9, 0);
        shown.op(1, (4_000, 4_001), Call::Look, Answer::Absent).at(8, staleness).fresh(Fresh::Stale)
    };
    answer(0).breaks("staleness");
    answer(2_900).breaks("staleness");
    answer(4_000).holds();
    let verdict = judge(&answer(3_500).history);
    assert_eq!((verdict.late.told, verdict.late.behind, verdict.late.worst), (2, 1, 490_000));
}

#[test]
fn many_concurrent_operations_are_decided() {
    let mut story = submitted();
    for client in 0..12 {
        story = story.op(client, (11, 0), Call::Cancel, Answer::Unknown);
        story = story.op(client, (12, 0), Call::Retry, Answer::Unknown);
    }
    for turn in 0..40 {
        story = story.look(20, (20 + turn, 21 + turn), Phase::Failed, 1);
        story = story.look(21, (20 + turn, 21 + turn), Phase::Failed, 1);
    }
    let verdict = judge(&story.look(22, (90, 91), Phase::Cancelled, 1).history);
    assert!(verdict.violations.is_empty(), "{}", verdict.violations[0]);
    println!("{} steps", verdict.steps);
}

/// One register, truly: every operation takes effect at one moment between its begin and its end.
fn truth(rng: &mut StdRng, lie: bool) -> Story {
    let mut state: Option<Sight> = None;
    let mut story = story();
    let mut last = None;
    for turn in 0..60u64 {
        let at = 100 + turn * 10;
        let times = (at - rng.random_range(0..40), at + rng.random_range(0..40));
        // Workers, unseen.
        if let Some(sight) = &mut state {
            *sight = match (sight.phase, rng.random_range(0..4)) {
                (Phase::Pending, 0) => Sight::new(Phase::Assigned, sight.attempt + 1),
                (Phase::Assigned, 0) => Sight::new(Phase::Running, sight.attempt),
                (Phase::Running, 0) => Sight::new(Phase::Failed, sight.attempt),
                (Phase::Running, 1) => Sight::new(Phase::Pending, sight.attempt),
                _ => *sight,
            };
        }
        let client = usize::try_from(turn).unwrap();
        let (call, answer) = match (rng.random_range(0..12), state) {
            (0, None) => (SUBMIT, Answer::Created),
            (0, Some(_)) => (SUBMIT, Answer::Existing),
            (1, Some(sight)) if sight.phase == Phase::Failed => (Call::Retry, Answer::Done),
            (2, Some(sight)) if turn > 50 && !sight.phase.is_final() => (Call::Cancel, Answer::Done),
            (_, Some(sight)) => (Call::Look, Answer::Seen(sight)),
            (_, None) => (Call::Look, Answer::Absent),
        };
        state = match (call, answer, state) {
            (SUBMIT, Answer::Created, _) => Some(Sight::new(Phase::Pending, 0)),
            (Call::Retry, _, Some(sight)) => Some(Sight::new(Phase::Pending, sight.attempt)),
            (Call::Cancel, _, Some(sight)) => Some(Sight::new(Phase::Cancelled, sight.attempt)),
            _ => state,
        };
        // Some never hear of what they did.
        let effect = matches!((call, answer), (SUBMIT, Answer::Created) | (Call::Retry | Call::Cancel, _));
        let answer = if effect && rng.random_range(0..3) == 0 { Answer::Unknown } else { answer };
        story = story.op(client, times, call, answer);
        last = state;
    }
    match last {
        // A read of what was long before.
        Some(sight) if lie && sight.rank() > 3 => story.look(99, (900, 901), Phase::Pending, 0),
        _ => story,
    }
}

#[test]
fn what_a_register_does_is_accepted_and_what_it_does_not_is_found() {
    let mut lies = 0;
    for seed in 0..300 {
        truth(&mut StdRng::seed_from_u64(seed), false).holds();
        let lie = truth(&mut StdRng::seed_from_u64(seed), true);
        if lie.history.ops.len() > 60 {
            lie.breaks("linearizability");
            lies += 1;
        }
    }
    assert!(lies > 100, "{lies} lies were told");
}
