//! The plan as seen from outside: what is tried when, and by how many.

use super::*;

const OLD: Timestamp = Timestamp(1_000);

struct Story {
    plan: Plan,
    now: Instant,
    events: u64,
}

impl Story {
    fn new() -> Self {
        Self { plan: Plan::default(), now: crate::clock::instant(), events: 0 }
    }

    fn add(&mut self, receiver: &str, count: u64) {
        for _ in 0..count {
            self.events += 1;
            self.plan.add(self.events, receiver, OLD, self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// All tries that begin now.
    fn begun(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.plan.next(self.now)).collect()
    }

    fn land(&mut self, event: u64, answer: &Answer) -> Option<Called> {
        let called = self.plan.landed(event, answer, self.now, 1.0);
        check(&self.plan);
        called
    }
}

/// What holds of every plan.
fn check(plan: &Plan) {
    let mut idle = 0;
    for (receiver, lane) in &plan.lanes {
        let mine = || plan.items.iter().filter(|(_, item)| item.receiver == *receiver);
        assert_eq!(mine().filter(|(_, item)| item.flies.is_some()).count(), lane.in_flight);
        let waiting: BTreeSet<(Instant, u64)> =
            mine().filter(|(_, item)| item.flies.is_none()).map(|(event, item)| (item.due, *event)).collect();
        assert_eq!(waiting, lane.due);
        assert_eq!(lane.listed, lane.next().map(|at| (lane.standing(), at)));
        let listed = plan.ready.iter().flatten().filter(|(_, of)| of == receiver).count();
        assert_eq!(listed, usize::from(lane.listed.is_some()));
        idle += usize::from(lane.due.is_empty() && lane.in_flight == 0);
    }
    assert_eq!((plan.idle, plan.ready.iter().map(BTreeSet::len).sum::<usize>() <= plan.lanes.len()), (idle, true));
    for standing in [Standing::Answers, Standing::New, Standing::Silent] {
        let flying = plan.items.values().filter(|item| item.flies == Some(standing)).count();
        assert_eq!(flying, plan.flying[standing as usize]);
        assert!(flying <= AT_ONCE[standing as usize]);
    }
}

fn refused() -> Answer {
    Answer::Refused { code: "http_500".to_owned(), after: None }
}

const SILENT: Answer = Answer::Silent { code: "timeout" };

#[test]
fn a_receiver_is_told_a_few_things_at_a_time_and_the_oldest_first() {
    let mut story = Story::new();
    story.add("a", 20);
    assert_eq!(story.begun(), (1..=8).collect::<Vec<_>>());
    assert_eq!(story.plan.wakes_at(), None, "nothing begins before something ends");
    assert_eq!(story.land(3, &Answer::Taken), Some(Called::Delivered { tries: 1 }));
    assert_eq!(story.begun(), [9]);
    assert_eq!(story.land(3, &Answer::Taken), None, "it is gone");
    assert_eq!(story.plan.len(), 19);
}

#[test]
fn what_is_refused_waits_longer_each_time_and_others_go_on() {
    let mut story = Story::new();
    story.add("a", 1);
    for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(story.begun(), [1]);
        assert_eq!(story.land(1, &refused()), None);
        assert_eq!(story.plan.wakes_at(), Some(story.now + Duration::from_secs(pause)));
        story.pass(Duration::from_secs(pause) - Duration::from_millis(1));
        assert!(story.begun().is_empty());
        story.add("a", 1);
        let newest = story.events;
        assert_eq!(story.begun(), [newest], "another path of the same host is served meanwhile");
        story.land(newest, &Answer::Taken);
        story.pass(Duration::from_millis(1));
    }
    assert_eq!(again_after(3, 0.0), Duration::from_secs(2), "half of a pause is chance");
}

#[test]
fn a_receiver_is_left_alone_for_as_long_as_it_asks_within_bounds() {
    let busy = |secs| Answer::Refused { code: "http_429".to_owned(), after: Some(Duration::from_secs(secs)) };
    for (asked, pause) in [(0, 1), (40, 40), (86_400, 300)] {
        let mut story = Story::new();
        story.add("a", 1);
        assert_eq!(story.begun(), [1]);
        story.land(1, &busy(asked));
        story.add("a", 20);
        story.add("b", 1);
        assert_eq!(story.begun().last(), Some(&22), "another goes on");
        if asked > 0 {
            assert!(story.begun().is_empty(), "what it is to be told next waits as well");
            story.pass(Duration::from_secs(pause) - Duration::from_millis(1));
            assert!(story.begun().is_empty());
            story.pass(Duration::from_millis(1));
            assert_eq!(story.begun().len(), 8);
        }
    }
}

#[test]
fn a_receiver_that_does_not_answer_is_asked_by_one_and_holds_up_nobody() {
    let mut story = Story::new();
    story.add("dead", 5_000);
    story.add("fine", 3);
    let begun = story.begun();
    assert_eq!(begun.len(), 11, "eight of the one, three of the other");
    for event in begun.into_iter().filter(|event| *event <= 5_000) {
        story.land(event, &SILENT);
    }
    assert!(story.begun().is_empty(), "it is left alone for a while");
    story.pass(SILENT_MAX);
    let [probe] = story.begun()[..] else { panic!("one try asks for all") };
    story.add("fine", 1);
    assert_eq!(story.begun(), [5_004]);
    assert_eq!(story.land(probe, &refused()), None);
    assert_eq!(story.begun().len(), 8, "any answer opens the lane");
}

#[test]
fn those_that_answer_always_find_slots() {
    let mut story = Story::new();
    story.add("known", 1);
    assert_eq!(story.begun(), [1]);
    story.land(1, &Answer::Taken);
    for n in 0..200 {
        story.add(&format!("stranger-{n}"), 1);
    }
    assert_eq!(story.begun().len(), AT_ONCE[1], "strangers get a part of the slots");
    story.add("known", 100);
    let known = story.events - 99..=story.events;
    assert!(story.begun().into_iter().all(|event| known.contains(&event)));
    assert_eq!(story.plan.flying, [8, 64, 0]);
    for event in story
        .plan
        .items
        .iter()
        .filter(|(_, item)| item.flies == Some(Standing::New))
        .map(|(e, _)| *e)
        .collect::<Vec<_>>()
    {
        story.land(event, &SILENT);
    }
    story.pass(SILENT_MAX);
    story.begun();
    assert_eq!(story.plan.flying, [8, 64, 32], "the silent get the least");
}

#[test]
fn what_is_old_is_given_up_once_it_was_tried_in_vain() {
    let mut story = Story::new();
    story.add("slow", 1);
    story.add("dead", 50);
    let later = Timestamp(OLD.0 + 1);
    assert!(story.plan.expired(later).is_empty(), "a clock that jumps gives up nothing");
    for round in 0..TRIES_MIN {
        for event in story.begun() {
            let answer = if event == 1 { refused() } else { SILENT };
            assert_eq!(story.land(event, &answer), None);
        }
        assert_eq!(story.plan.expired(OLD), [], "round {round}: it is not old");
        story.pass(SILENT_MAX);
    }
    let expired = story.plan.expired(later);
    check(&story.plan);
    assert_eq!(expired.len(), 51);
    assert_eq!(expired[0], (1, Called::GivenUp { tries: 3, code: "http_500".into() }));
    assert_eq!(expired[50], (51, Called::GivenUp { tries: 0, code: "timeout".into() }), "one spoke for all");
    assert_eq!((story.plan.len(), story.plan.lanes.len()), (0, 1), "who never answered is forgotten");
}

#[test]
fn what_gave_way_is_forgotten_wherever_it_is() {
    let mut story = Story::new();
    story.add("a", 12);
    assert_eq!(story.begun().len(), 8);
    story.plan.forget(2);
    check(&story.plan);
    assert_eq!(story.begun(), [9]);
    assert_eq!(story.plan.retain(|event| event != 11), 1, "those in the air are left there");
    check(&story.plan);
    assert_eq!((story.plan.len(), story.plan.seen()), (10, 12));
    assert_eq!(story.land(1, &Answer::Never { code: "gone" }), Some(Called::GivenUp { tries: 1, code: "gone".into() }));
}
