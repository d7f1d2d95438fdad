//! Stories: scripts beside their expected outcome, in `src/domain/golden`.
//!
//! A line is one command, applied as one log record, or one look at the state.
//! `UPDATE_GOLDENFILES=1 cargo test golden` writes the outcomes anew; read the
//! difference before you believe it. Jobs are `j1`…, workers `w1`…; times are
//! `300ms`, `31s`, `2m`. A command keeps the last `at` unless it names one.
//!
//! Every record is followed by a check of the invariants, every story by a
//! snapshot that must read back as the same state.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{ArgumentConsumer, Command as Line};

use super::fixture::{check, complete, fail, job, keep, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::ceiling::Escalation;
use crate::domain::command::{Command, Done, Record, Reply};
use crate::domain::ids::{JobId, Price, WorkerId};
use crate::domain::job::{Job, JobState};
use crate::domain::journal::{Event, Sink};
use crate::domain::matching::misfits;
use crate::domain::reputation::Change;
use crate::domain::run::{Run, Vote};
use crate::domain::schedule::retry_delay_ms;
use crate::domain::state::{LIMITS, State};
use crate::domain::time::Timestamp;
use crate::domain::worker::Verdict;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Story {
    state: State,
    at: u64,
}

impl goldenscript::Runner for Story {
    fn run(&mut self, line: &Line) -> Outcome<String> {
        let mut args = line.consume_args();
        if let Some(at) = args.lookup("at") {
            self.at = milliseconds(&at.value)?;
        }
        let text = match self.command(&line.name, &mut args)? {
            Some(command) => self.apply(command),
            None => self.look(&line.name, &mut args)?,
        };
        args.reject_rest()?;
        Ok(text)
    }

    fn end_script(&mut self) -> Outcome<()> {
        check(&reread(&self.state));
        Ok(())
    }
}

impl Story {
    fn command(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<Option<Command>> {
        if let Some(command) = self.attempt_command(name, args)? {
            return Ok(Some(command));
        }
        Ok(Some(match name {
            "submit" => draft_submit(args)?,
            "cancel" => Command::Cancel { job: job_arg(args)?, reason: text(args, "reason", "no longer wanted") },
            "register" => draft_register(args)?,
            "unregister" => Command::UnregisterWorker { worker: worker_arg(args)? },
            "drain" => Command::Drain { worker: worker_arg(args)? },
            "resume" => Command::Resume { worker: worker_arg(args)? },
            "verdict" => {
                let worker = worker_arg(args)?;
                let verdict = match args.next_pos().ok_or("verdict?")?.value.as_str() {
                    "online" => Verdict::Online,
                    "unhealthy" => Verdict::Unhealthy,
                    "offline" => Verdict::Offline,
                    other => return Err(format!("no verdict {other}").into()),
                };
                Command::SetVerdict { worker, verdict }
            }
            "retry" => Command::Retry { job: job_arg(args)? },
            "deadline" => Command::PassDeadline { job: job_arg(args)? },
            "delivered" => {
                let sink = sink(&args.next_pos().ok_or("sink?")?.value)?;
                Command::Delivered { sink, through: args.lookup_parse("through")?.ok_or("through?")? }
            }
            _ => return Ok(None),
        }))
    }

    /// Commands about an attempt; it defaults to the one in force, the worker to its holder.
    fn attempt_command(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<Option<Command>> {
        if !["assign", "start", "renew", "expire", "decline", "complete", "fail"].contains(&name) {
            return Ok(None);
        }
        let id = job_arg(args)?;
        let known = self.state.job(id);
        let current = known.map_or(0, |job| job.attempt);
        let named = args.lookup("worker").map(|arg| number(&arg.value, 'w')).transpose()?.map(worker);
        let mine = known.and_then(|job| job.run_of(named?)).map(|run| run.attempt);
        let attempt = mine.filter(|_| name != "assign").unwrap_or(current + u32::from(name == "assign"));
        let attempt = args.lookup_parse("attempt")?.unwrap_or(attempt);
        let holder = known.and_then(|job| job.runs.last()).map(|run| run.award.worker);
        let worker = named.or(holder).unwrap_or_default();
        let lease_ms = milliseconds(&text(args, "lease", "30s"))?;
        Ok(Some(match name {
            "assign" => {
                let price = Price(args.lookup_parse("price")?.unwrap_or(5));
                Command::Assign { job: id, attempt, worker, price, lease_ms, evidence: None }
            }
            "start" => Command::Started { job: id, attempt, worker },
            "renew" => Command::Renew { job: id, attempt, lease_ms },
            "expire" => Command::Expire { job: id, attempt },
            "decline" => Command::Decline { job: id, attempt, worker },
            "complete" => match args.lookup_parse("kept")? {
                Some(size) => keep(id, attempt, worker, size),
                None => complete(id, attempt, worker, text(args, "output", "done").as_bytes()),
            },
            _ => {
                let mut command = fail(id, attempt, worker, args.lookup_parse("retryable")?.unwrap_or(true));
                if let (Command::Fail(fail), Some(code)) = (&mut command, args.lookup("code")) {
                    fail.code.clone_from(&code.value);
                }
                command
            }
        }))
    }

    fn apply(&mut self, command: Command) -> String {
        let seen = self.state.journal().last_seq();
        let position = Position { index: self.state.applied() + 1, term: 1 };
        let replies = self.state.apply(position, &Record { at: Timestamp(self.at), commands: vec![command] });
        check(&self.state);
        let mut out = String::new();
        for reply in &replies {
            writeln!(out, "{}", self.reply(reply)).unwrap();
        }
        // What else the command brought about: other jobs, workers.
        let told = told_of(replies.first());
        for entry in self.state.journal().after(seen, usize::MAX) {
            if told != Some(subject(&entry.event)) {
                writeln!(out, "  {}", self.event(&entry.event)).unwrap();
            }
        }
        out
    }

    fn reply(&self, reply: &Reply) -> String {
        match reply {
            Ok(Done::Submitted { job, created: true }) => self.job_line(*job),
            Ok(Done::Submitted { job, created: false }) => format!("known: {}", self.job_line(*job)),
            Ok(Done::Job { job, .. }) => self.job_line(*job),
            Ok(Done::Worker { worker }) => self.worker_line(*worker),
            Ok(Done::Unchanged) => "unchanged".to_owned(),
            Ok(Done::Delivered { through }) => format!("delivered through {through}"),
            Ok(other) => format!("{other:?}"),
            Err(refusal) => short(&format!("{}: {refusal}", refusal.code())),
        }
    }

    fn job_line(&self, id: JobId) -> String {
        let Some(job) = self.state.job(id) else { return format!("{} is forgotten", name_of(id)) };
        let mut line = format!("{} {} attempt={}", name_of(id), job.state.as_str(), job.attempt);
        let award = job.runs.first().map(|run| &run.award).filter(|_| job.spec.redundancy <= 1);
        if let Some(award) = award {
            write!(line, " worker=w{} price={}", award.worker.0[0], award.price).unwrap();
        }
        if let (JobState::Assigned | JobState::Running, Some(award)) = (job.state, award) {
            write!(line, " lease_until={}", time(award.lease_until)).unwrap();
        }
        if job.spec.redundancy > 1 {
            let runs: Vec<String> = job.runs.iter().map(|run| run_text(job, run)).collect();
            write!(line, " runs=[{}]", runs.join(" ")).unwrap();
        }
        if job.failures > 0 {
            write!(line, " failures={}", job.failures).unwrap();
        }
        if let Some(error) = &job.error {
            write!(line, " error={}", error.code).unwrap();
        }
        if job.state == JobState::Pending && job.next_attempt_at > self.state.now() {
            write!(line, " not before {}", time(job.next_attempt_at)).unwrap();
        }
        line
    }

    fn worker_line(&self, id: WorkerId) -> String {
        let Some(worker) = self.state.worker(id) else { return format!("w{} is gone", id.0[0]) };
        let held: Vec<String> = self.state.jobs_of(id).into_iter().flatten().map(|id| name_of(*id)).collect();
        let (state, room) = (self.state.worker_state(worker), self.state.room(worker));
        let mut line = format!("w{} {} room={room}", id.0[0], state.as_str());
        if !held.is_empty() {
            write!(line, " holds={}", held.join(",")).unwrap();
        }
        for (name, count) in [("completed", worker.completed), ("failed", worker.failed), ("lost", worker.lost)] {
            if count > 0 {
                write!(line, " {name}={count}").unwrap();
            }
        }
        line
    }

    fn event(&self, event: &Event) -> String {
        match event {
            Event::Job { job, state, attempt, cause, worker } => {
                let worker = worker.map_or(String::new(), |worker| format!(" worker=w{}", worker.0[0]));
                format!("{} {} attempt={attempt} cause={cause:?}{worker}", name_of(*job), state.as_str())
            }
            Event::Worker { worker, state } => format!("w{} {}", worker.0[0], state.as_str()),
            Event::WorkerGone { worker } => format!("w{} gone", worker.0[0]),
            Event::Letter => "dead letter".to_owned(),
            Event::Replay { letter } => format!("dead letter {letter} replayed"),
        }
    }

    fn look(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        Ok(match name {
            "limits" => self.set_limits(args)?,
            "job" => self.job_line(job_arg(args)?),
            "dead" => lines(self.state.jobs_after(None).filter(|job| job.is_dead()).map(|job| self.job_line(job.id))),
            "jobs" => lines(self.state.jobs_after(None).map(|job| self.job_line(job.id))),
            "active" => lines(self.state.active_jobs_after(None).map(|job| self.job_line(job.id))),
            "open" => {
                let now = self.state.now().max(Timestamp(self.at));
                let open: Vec<String> = self.state.open_jobs(now).map(|job| name_of(job.id)).collect();
                format!("open: {}", if open.is_empty() { "none".to_owned() } else { open.join(" ") })
            }
            "overdue" => {
                let overdue = self.state.overdue(Timestamp(self.at)).map(name_of);
                format!("overdue: {}", overdue.collect::<Vec<_>>().join(" "))
            }
            "stalled" => {
                let stalled = self.state.stalled(Timestamp(self.at)).map(name_of);
                format!("stalled: {}", stalled.collect::<Vec<_>>().join(" "))
            }
            "tells" => format!("time would tell: {}", self.state.time_would_tell(Timestamp(self.at))),
            "worker" => self.worker_line(worker_arg(args)?),
            // As if much had happened.
            "trust" => {
                let worker = worker_arg(args)?;
                let value = args.lookup_parse("to")?.ok_or("to?")?;
                let worker = self.state.workers.get_mut(&worker).ok_or("no such worker")?;
                std::sync::Arc::make_mut(worker).reputation = value;
                String::new()
            }
            "reputation" => {
                let worker = self.state.worker(worker_arg(args)?).ok_or("no such worker")?;
                let changes = worker.changes.iter();
                let change =
                    |c: &Change| format!("{} {} {:+} = {}", time(c.at), c.fact.as_str(), c.fact.delta(), c.value);
                format!("{} now {}", lines(changes.map(change)), worker.reputation)
            }
            "workers" => lines(self.state.workers().map(|worker| self.worker_line(worker.id))),
            "bytes" => self.bytes_line(job_arg(args)?),
            "history" => self.history(job_arg(args)?)?,
            "journal" => self.journal(args.lookup_parse("after")?.unwrap_or(0)),
            "misfits" => self.misfits(job_arg(args)?, worker_arg(args)?)?,
            "counts" => {
                let counts = self.state.job_counts().into_iter().filter(|(_, count)| *count > 0);
                let counts: Vec<String> = counts.map(|(state, count)| format!("{}={count}", state.as_str())).collect();
                format!("{} ever={}", counts.join(" "), self.state.submitted_total())
            }
            "ceiling" => {
                let job = self.state.job(job_arg(args)?).ok_or("no such job")?;
                let at = Timestamp(self.at);
                let next = job.spec.max_price.and_then(|most| job.ceiling_reaches(most)).map(time);
                format!("{:?} at {}, most from {next:?}", job.ceiling(at).map(|price| price.0), time(at))
            }
            "backoff" => {
                let job = self.state.job(job_arg(args)?).ok_or("no such job")?;
                lines((1..=4).map(|n| format!("after failure {n}: {}ms", retry_delay_ms(&job.spec.retry, job.id, n))))
            }
            other => return Err(format!("no such line: {other}").into()),
        })
    }

    fn set_limits(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome<String> {
        let limits = &mut self.state.limits;
        for arg in args.rest_key() {
            let value = arg.parse()?;
            match arg.name() {
                "backlog" => limits.backlog = value,
                "classes" => limits.classes = value,
                "classes_in_all" => limits.classes_in_all = value,
                "backlog_bytes" => limits.backlog_bytes = value,
                "finished" => (limits.finished, limits.segment_jobs) = (value, 1),
                "finished_bytes" => limits.finished_bytes = value,
                "ballot_bytes" => limits.ballot_bytes = value,
                "evidence" => limits.evidence = value,
                "retired" => limits.retired = value,
                "workers" => limits.workers = value,
                "journal_keep" => limits.journal_keep = value,
                "journal_max" => limits.journal_max = value,
                other => return Err(format!("no limit {other}").into()),
            }
        }
        Ok(String::new())
    }

    fn bytes_line(&self, id: JobId) -> String {
        let show = |bytes: Option<&std::sync::Arc<[u8]>>| {
            bytes.map_or("none".to_owned(), |bytes| format!("{:?}", String::from_utf8_lossy(bytes)))
        };
        format!("{} payload={} output={}", name_of(id), show(self.state.payload(id)), show(self.state.output(id)))
    }

    fn history(&self, id: JobId) -> Outcome<String> {
        let job: &Job = self.state.job(id).ok_or("no such job")?;
        Ok(lines(job.history.iter().map(|line| {
            let worker = line.worker.map_or(String::new(), |worker| format!(" worker=w{}", worker.0[0]));
            let state = line.state.as_str();
            format!("{} index={} {state} attempt={} {:?}{worker}", time(line.at), line.index, line.attempt, line.cause)
        })))
    }

    fn journal(&self, after: u64) -> String {
        let journal = self.state.journal();
        let entries = journal.after(after, usize::MAX).into_iter();
        let mut out = lines(entries.map(|entry| format!("{} {}", entry.seq, self.event(&entry.event))));
        let cursors: Vec<String> = journal.cursors().map(|(sink, at)| format!("{sink:?}={at}")).collect();
        write!(out, "first={} last={} {}", journal.first_seq(), journal.last_seq(), cursors.join(" ")).unwrap();
        out
    }

    fn misfits(&self, id: JobId, worker: WorkerId) -> Outcome<String> {
        let job = self.state.job(id).ok_or("no such job")?;
        let worker = self.state.worker(worker).ok_or("no such worker")?;
        let lacking = misfits(&job.spec, worker, None).into_iter();
        Ok(lines(lacking.map(|m| format!("{}: wanted {}, offered {}", m.requirement, m.wanted, m.offered))))
    }
}

/// One of several runs: attempt, worker, and what it brought, or where it is; and what is owed for it.
fn run_text(job: &Job, run: &Run) -> String {
    let brought = match run.vote() {
        Some(Vote::Output(vote)) => format!("{:02x}", vote.output_sha256.0[0]),
        Some(Vote::Failure(error)) => error.code.clone(),
        None if job.state.is_final() => "cancelled".to_owned(),
        None if run.award.started_at.is_some() => "running".to_owned(),
        None => "assigned".to_owned(),
    };
    let owed = job.owed(run).map_or(String::new(), |owed| format!(" owed={owed}"));
    format!("{}:w{}={brought}{owed}", run.attempt, run.award.worker.0[0])
}

fn draft_submit(args: &mut ArgumentConsumer<'_>) -> Outcome<Command> {
    let id = job_arg(args)?;
    let payload = text(args, "payload", "input");
    let mut spec = spec(payload.as_bytes());
    spec.kind = text(args, "type", "sha256");
    spec.priority = args.lookup_parse("priority")?.unwrap_or(spec.priority);
    spec.max_price = args.lookup_parse("max_price")?.map(Price);
    spec.price_escalation = match (args.lookup_parse("start")?, args.lookup_parse("step")?) {
        (Some(start), Some(step)) => Some(Escalation { start: Price(start), step: Price(step), every_secs: 10 }),
        _ => None,
    };
    spec.deadline = args.lookup("deadline").map(|arg| milliseconds(&arg.value)).transpose()?.map(Timestamp);
    spec.redundancy = args.lookup_parse("redundancy")?.unwrap_or(1);
    spec.retry.max_attempts = args.lookup_parse("max_attempts")?.unwrap_or(spec.retry.max_attempts);
    spec.requirements.min_cpu_cores = args.lookup_parse("cpu")?.unwrap_or(0);
    spec.client_address = args.lookup("client").map(|arg| arg.value.as_str().into());
    Ok(submit(id, spec, payload.as_bytes()))
}

fn draft_register(args: &mut ArgumentConsumer<'_>) -> Outcome<Command> {
    let mut command = register(worker_arg(args)?, args.lookup_parse("max")?.unwrap_or(2));
    if let Command::RegisterWorker { capabilities, .. } = &mut command {
        capabilities.cpu_cores = args.lookup_parse("cpu")?.unwrap_or(capabilities.cpu_cores);
    }
    Ok(command)
}

fn job_arg(args: &mut ArgumentConsumer<'_>) -> Outcome<JobId> {
    Ok(job(number(&args.next_pos().ok_or("job?")?.value, 'j')?))
}

fn worker_arg(args: &mut ArgumentConsumer<'_>) -> Outcome<WorkerId> {
    Ok(worker(number(&args.next_pos().ok_or("worker?")?.value, 'w')?))
}

fn number(name: &str, prefix: char) -> Outcome<u8> {
    Ok(name.strip_prefix(prefix).ok_or_else(|| format!("{name} does not begin with {prefix}"))?.parse()?)
}

fn text(args: &mut ArgumentConsumer<'_>, key: &str, default: &str) -> String {
    args.lookup(key).map_or(default, |arg| &arg.value).to_owned()
}

fn sink(name: &str) -> Outcome<Sink> {
    match name {
        "kafka" => Ok(Sink::Kafka),
        "chain" => Ok(Sink::Chain),
        "history" => Ok(Sink::History),
        other => Err(format!("no sink {other}").into()),
    }
}

fn milliseconds(text: &str) -> Outcome<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("ms") => 1,
        Some("s") => 1_000,
        Some("m") => 60_000,
        Some("h") => 3_600_000,
        _ => return Err(format!("{text} is no time: use ms, s, m or h").into()),
    };
    Ok(digits.parse::<u64>()? * unit)
}

fn time(at: Timestamp) -> String {
    let (seconds, rest) = (at.0 / 1_000, at.0 % 1_000);
    if rest == 0 { format!("{seconds}s") } else { format!("{seconds}.{rest:03}s") }
}

fn name_of(id: JobId) -> String {
    format!("j{}", id.0[0])
}

/// Replaces ids by their short names.
fn short(text: &str) -> String {
    (1..20).fold(text.to_owned(), |text, n| {
        text.replace(&job(n).to_string(), &format!("j{n}")).replace(&worker(n).to_string(), &format!("w{n}"))
    })
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.fold(String::new(), |all, line| all + &line + "\n")
}

/// What an event is about: a job or a worker.
fn subject(event: &Event) -> (Option<JobId>, Option<WorkerId>) {
    match event {
        Event::Job { job, .. } => (Some(*job), None),
        Event::Worker { worker, .. } | Event::WorkerGone { worker } => (None, Some(*worker)),
        Event::Letter | Event::Replay { .. } => (None, None),
    }
}

fn told_of(reply: Option<&Reply>) -> Option<(Option<JobId>, Option<WorkerId>)> {
    match reply?.as_ref().ok()? {
        Done::Submitted { job, .. } | Done::Job { job, .. } => Some((Some(*job), None)),
        Done::Worker { worker } => Some((None, Some(*worker))),
        _ => None,
    }
}

fn tell(name: &str) {
    let path = format!("{}/src/domain/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    goldenscript::run(&mut Story { state: State::within(LIMITS), at: 0 }, path).unwrap();
}

macro_rules! stories {
    ($($name:ident)*) => {
        $(#[test] fn $name() { tell(stringify!($name)); })*

        #[test]
        fn every_story_is_told() {
            let mut names: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/golden"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

stories! {
    assign_refusals
    award_and_complete
    backlog
    cancel
    dead_list
    deadline
    decline
    drain
    duplicate_complete
    fair_share
    forgotten_key
    journal
    kept_output
    late_result
    nonsense
    price_escalation
    queue
    redundancy
    redundancy_ends
    reputation
    retention
    retry
    same_submission
    silent_worker
    stalled_votes
    unregister
    worker_life
}
