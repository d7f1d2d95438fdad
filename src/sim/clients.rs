//! Who asks for jobs: by the API with retries under one key, and by Kafka. And an operator.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::log::Outcome;
use super::world::{NODES, START, World, note};
use crate::domain::chain::{Act, Confirmation, Policy, Stage, Terms};
use crate::domain::command::{Done, Refusal, Submit};
use crate::domain::job::{Input, JobSpec, Requirements, Retry, Source};
use crate::domain::{Command, Digest, JobId, Price, Timestamp};

/// One job that somebody wants.
pub(super) struct Wish {
    pub submit: Submit,
    at: u64,
    pub acknowledged: bool,
}

#[derive(Default)]
pub(super) struct Clients {
    pub wishes: Vec<Wish>,
    /// Records of the topic that jobs come by, and when each was written.
    feed: Vec<(u64, Submit)>,
}

impl Clients {
    pub fn draw(rng: &mut StdRng) -> Self {
        let (wishes, fed) = (rng.random_range(6..=14_u32), rng.random_range(0..=4_u32));
        let mut wish = |n: u32, source| (rng.random_range(500..20_000), draw_submit(rng, n, source));
        let wishes: Vec<Wish> = (0..wishes)
            .map(|n| wish(n, Source::Api))
            .map(|(at, submit)| Wish { submit, at, acknowledged: false })
            .collect();
        let mut feed: Vec<(u64, Submit)> = (100..100 + fed).map(|n| wish(n, Source::Kafka)).collect();
        feed.sort_by_key(|(at, _)| *at);
        Self { wishes, feed }
    }

    /// Records of the topic from this offset on.
    pub fn offered(&self, from: u64, now: u64) -> impl Iterator<Item = (u64, &Submit)> {
        let written = (0..).zip(&self.feed).filter(move |(_, (at, _))| *at <= now);
        written.map(|(offset, (_, submit))| (offset, submit)).skip_while(move |(offset, _)| *offset < from)
    }

    pub fn fed(&self) -> u64 {
        self.feed.len() as u64
    }

    pub fn all(&self) -> impl Iterator<Item = &Submit> {
        self.wishes.iter().map(|wish| &wish.submit).chain(self.feed.iter().map(|(_, submit)| submit))
    }
}

fn draw_submit(rng: &mut StdRng, n: u32, source: Source) -> Submit {
    let id = JobId::from_key("sim", &n.to_string());
    let payload = vec![n as u8; rng.random_range(0..40)];
    let settled = rng.random_range(0..100) < 45;
    let policy = if rng.random() { Policy::SettleLater } else { Policy::RegisterBeforeDistribution };
    let confirmation = if rng.random() { Confirmation::Preconfirmed } else { Confirmation::AcceptedL2 };
    let deadline = rng.random_range(0..100) < 12;
    let spec = JobSpec {
        kind: ["sha256", "wordcount"][rng.random_range(0..2)].to_owned(),
        input: Input { sha256: Digest::of(&payload), size: payload.len() as u64, uri: None },
        priority: rng.random_range(1..=10),
        max_price: (settled || rng.random()).then_some(Price(100)),
        price_escalation: None,
        deadline: deadline.then(|| Timestamp(START + rng.random_range(5_000..40_000))),
        timeout_secs: 60,
        requirements: Requirements::default().into(),
        policy: Default::default(),
        weights: None,
        retry: Retry { max_attempts: rng.random_range(2..=5), initial_delay_ms: 200, ..Retry::default() }.into(),
        redundancy: if rng.random_range(0..100) < 25 { rng.random_range(2..=3) } else { 1 },
        tags: vec![],
        client_address: [None, Some("0x1"), Some("0x2")][rng.random_range(0..3)].map(Into::into),
        callback_url: None,
        settlement: settled.then_some(Terms { policy, confirmation }),
    };
    let fingerprint = Digest::of(&id.0);
    Submit { id, spec, payload: Some(payload), fingerprint, source }
}

impl World {
    pub(super) fn begin_clients(&mut self) {
        for wish in 0..self.clients.wishes.len() {
            let at = self.clients.wishes[wish].at;
            self.after(at, "wish", move |world| world.ask(wish));
        }
        let poisoned: Vec<JobId> = self.clients.all().map(|submit| submit.id).collect();
        for job in poisoned {
            if self.chance(self.faults.poison) {
                self.contract.poisoned.insert(job);
            }
        }
        self.after(2_000, "operator", Self::operate);
    }

    /// Submits, again and again under the same key until an answer comes.
    fn ask(&mut self, wish: usize) {
        let node = self.rng.random_range(0..NODES);
        let submit = self.clients.wishes[wish].submit.clone();
        let job = submit.id;
        self.submit(node, None, vec![Command::Submit(Box::new(submit))], move |world, outcome| {
            let again = match outcome {
                Outcome::Done(replies) => match &replies[0] {
                    Ok(Done::Submitted { job: told, .. }) => {
                        assert_eq!(*told, job);
                        world.acknowledged(wish, node, job)
                    }
                    Err(Refusal::Forgotten { .. }) => world.acknowledged(wish, node, job),
                    Err(Refusal::BacklogFull { .. }) if !world.clients.wishes[wish].acknowledged => Some(1_000),
                    other => panic!("job {job} was answered with {other:?}"),
                },
                Outcome::NoLeader => Some(300),
                Outcome::Unknown => Some(50),
            };
            if let Some(pause) = again {
                let pause = pause + world.between(0, 700);
                world.after(pause, "wish", move |world| world.ask(wish));
            }
        });
    }

    fn acknowledged(&mut self, wish: usize, node: usize, job: JobId) -> Option<u64> {
        note!(self, "job {job} is acknowledged by node {node}");
        self.clients.wishes[wish].acknowledged = true;
        self.checks.acknowledged(job);
        if self.is_quiet() {
            return None;
        }
        if self.chance(120) {
            let at = self.between(100, 4_000);
            let reason = "no longer wanted".to_owned();
            self.after(at, "cancel", move |world| {
                let node = world.rng.random_range(0..NODES);
                world.submit(node, None, vec![Command::Cancel { job, reason }], |_, _| {});
            });
        }
        // Some have not heard the answer.
        self.chance(300).then(|| self.between(10, 6_000))
    }

    /// Drains, removes and lets go on; gives failed jobs another chance; looks after what is parked.
    fn operate(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let worker = self.crew[self.rng.random_range(0..self.crew.len())].id;
        let commands = match self.rng.random_range(0..12) {
            0 if !self.is_quiet() => vec![Command::Drain { worker }],
            1 if !self.is_quiet() && self.chance(300) => vec![Command::UnregisterWorker { worker }],
            2 if !self.is_quiet() => self.reopen(node),
            3..5 => self.unpark(node),
            _ => vec![Command::Resume { worker }],
        };
        if !commands.is_empty() {
            self.submit(node, None, commands, |_, _| {});
        }
        let next = self.between(400, 1_500);
        self.after(next, "operator", Self::operate);
    }

    pub(super) fn rest_of_clients(&mut self) {
        let workers: Vec<_> = self.crew.iter().map(|hand| hand.id).collect();
        for worker in workers {
            self.submit(0, None, vec![Command::Resume { worker }], |_, _| {});
        }
    }

    fn reopen(&mut self, node: usize) -> Vec<Command> {
        let failed = |job: &&std::sync::Arc<crate::domain::Job>| job.state == crate::domain::JobState::Failed;
        let found = self.nodes[node].state.jobs_after(None).find(failed);
        found.map(|job| Command::Retry { job: job.id }).into_iter().collect()
    }

    /// The first of each job goes on; the registration of a job that came to nothing is dropped.
    fn unpark(&mut self, node: usize) -> Vec<Command> {
        let mut seen = std::collections::BTreeSet::new();
        let parked = self.nodes[node].state.chain().parked_after(None);
        let first = parked.filter(|parked| seen.insert(parked.item.job));
        let act = |parked: &std::sync::Arc<crate::domain::chain::Parked>| {
            let (seq, lost) = (parked.item.seq, self.checks.is_lost(parked.item.job));
            let drops = lost && matches!(parked.item.stage, Stage::Register | Stage::Assign);
            Command::Chain(if drops { Act::Drop { seq } } else { Act::Retry { seq } })
        };
        first.map(act).collect()
    }
}
