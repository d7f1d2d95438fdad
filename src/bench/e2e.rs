//! From submit to signed result: bids, award, run and completion included.
//!
//! The clock runs from the first submit to the moment the cluster's own counts
//! say that as many jobs have ended as were submitted. The counts are then
//! checked on a sample of the jobs, by id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::EndToEndArgs;
use super::cluster::{Cluster, Job, Submitted, submission};
use super::histogram::Histogram;
use super::load;
use super::report::Report;
use crate::clock;
use crate::domain::state::LIMITS;
use crate::tasks::Tasks;

/// Between two looks at the counts.
const LOOK: Duration = Duration::from_millis(20);

/// Before a batch that was refused is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Jobs looked at one by one in the end.
const SAMPLE: usize = 500;

pub(super) async fn run(args: &EndToEndArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let timed = timed(args, &submission(&args.kind, b""), cluster, tasks).await?;
    let Timed { ids, retries, submitted, elapsed } = timed;
    let sample = look_at(remembered(&ids), cluster).await?;
    if sample.completed < sample.jobs {
        bail!("{} of {} sampled jobs did not complete", sample.jobs - sample.completed, sample.jobs);
    }
    Ok(Report::new("e2e", parameters(args))
        .rate("jobs_per_sec", load::per_sec(u64::from(args.jobs), elapsed))
        .rate("submits_per_sec", load::per_sec(u64::from(args.jobs), submitted))
        .latency("submit_to_finish", sample.latency.summary())
        .count("jobs", u64::from(args.jobs))
        .count("sampled", sample.jobs)
        .count("sampled_attempted_again", sample.repeated)
        .count("submit_retries", retries)
        .seconds("measured_secs", elapsed.as_secs_f64()))
}

/// How a load went.
pub(super) struct Timed {
    pub ids: Vec<String>,
    /// Batches that had to be sent again.
    pub retries: u64,
    /// Until all were submitted.
    pub submitted: Duration,
    /// Until all had ended.
    pub elapsed: Duration,
}

/// Submits as many of `job` as `args` say, and waits until they have ended.
pub(super) async fn timed(args: &EndToEndArgs, job: &Value, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Timed> {
    let ended_before = cluster.status(cluster.node(0)).await?.ended();
    let began = clock::instant();
    let deadline = began + Duration::from_secs(args.timeout_secs);
    let (ids, retries) = submit_all(args, job, cluster, tasks, deadline).await?;
    let submitted = began.elapsed();
    wait_until_ended(cluster, ended_before + u64::from(args.jobs), deadline).await?;
    Ok(Timed { ids, retries, submitted, elapsed: began.elapsed() })
}

struct Submitter {
    cluster: Cluster,
    run: u64,
    jobs: Vec<Value>,
    batches: Vec<usize>,
    next: AtomicU64,
    retries: AtomicU64,
    deadline: Instant,
    ids: Mutex<Vec<String>>,
}

/// Submits everything; the ids, and how often a batch had to be sent again.
async fn submit_all(
    args: &EndToEndArgs,
    job: &Value,
    cluster: &Cluster,
    tasks: &Tasks,
    deadline: Instant,
) -> anyhow::Result<(Vec<String>, u64)> {
    let submitter = Arc::new(Submitter {
        cluster: cluster.clone(),
        run: rand::random(),
        jobs: vec![job.clone(); args.batch.min(args.jobs) as usize],
        batches: batches(args.jobs as usize, args.batch as usize),
        next: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        deadline,
        ids: Mutex::default(),
    });
    let clients: Vec<_> = (0..args.clients as usize)
        .map(|client| {
            let submitter = Arc::clone(&submitter);
            tasks.spawn("bench client", async move { submitter.run(client).await })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    let ids = std::mem::take(&mut *submitter.ids.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((ids, submitter.retries.load(Ordering::Relaxed)))
}

/// Sizes of the batches that make up `jobs`.
fn batches(jobs: usize, batch: usize) -> Vec<usize> {
    let full = std::iter::repeat_n(batch, jobs / batch);
    full.chain(Some(jobs % batch).filter(|rest| *rest > 0)).collect()
}

impl Submitter {
    async fn run(&self, client: usize) -> anyhow::Result<()> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let size = usize::try_from(number).ok().and_then(|number| self.batches.get(number));
            let Some(size) = size else { return Ok(()) };
            let jobs = self.submit(client, number, *size).await?;
            let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(jobs.into_iter().map(|job| job.id));
        }
    }

    /// The same key until it is accepted, so that no job is submitted twice.
    async fn submit(&self, client: usize, number: u64, size: usize) -> anyhow::Result<Vec<Job>> {
        let key = format!("bench-e2e-{:016x}-{number}", self.run);
        loop {
            let node = self.cluster.node(client);
            let why = match self.cluster.submit_batch(node, &key, &self.jobs[..size]).await {
                Submitted::Accepted(jobs) if jobs.len() == size => return Ok(jobs),
                // The backlog was full: under the same key those are the same jobs when they are submitted again.
                Submitted::Accepted(jobs) => format!("{} of {size} jobs of a batch were accepted", jobs.len()),
                Submitted::Full(why) | Submitted::Refused(why) => why,
            };
            if clock::instant() > self.deadline {
                bail!("submit a batch: {why}");
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn wait_until_ended(cluster: &Cluster, goal: u64, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let status = cluster.status(cluster.node(0)).await?;
        let ended = status.ended();
        if ended >= goal {
            return Ok(());
        }
        if clock::instant() > deadline {
            bail!("{} jobs had not ended in time (now {:?}): does a worker run this type?", goal - ended, status.jobs);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The jobs submitted last: nodes forget those that ended long ago. Half of what they keep,
/// since jobs do not end quite in the order in which they came.
fn remembered(ids: &[String]) -> &[String] {
    &ids[ids.len().saturating_sub(LIMITS.finished / 2)..]
}

pub(super) struct Sample {
    pub jobs: u64,
    pub completed: u64,
    /// Jobs that needed more than one attempt.
    pub repeated: u64,
    pub latency: Histogram,
}

/// Jobs looked at one by one, of all of them an even share.
pub(super) async fn look_at(ids: &[String], cluster: &Cluster) -> anyhow::Result<Sample> {
    let mut sample = Sample { jobs: 0, completed: 0, repeated: 0, latency: Histogram::new() };
    for id in ids.iter().step_by(ids.len().div_ceil(SAMPLE).max(1)) {
        let job = cluster.job(cluster.node(0), id).await?;
        sample.jobs += 1;
        sample.completed += u64::from(job.state == "completed");
        sample.repeated += u64::from(job.attempt > 1);
        if let Some(took) = took(&job) {
            sample.latency.add(took);
        }
    }
    Ok(sample)
}

/// From submission to end, as the cluster stamped it.
pub(super) fn took(job: &Job) -> Option<Duration> {
    let at = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
    (at(&job.finished_at)? - at(&job.submitted_at)?).try_into().ok()
}

fn parameters(args: &EndToEndArgs) -> Value {
    json!({ "jobs": args.jobs, "type": args.kind, "clients": args.clients, "jobs_per_request": args.batch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up() {
        assert_eq!(batches(20_000, 500), vec![500; 40]);
        assert_eq!(batches(1001, 500), [500, 500, 1]);
        assert_eq!(batches(3, 500), [3]);
    }

    #[test]
    fn only_jobs_that_are_still_remembered_are_looked_at() {
        let ids: Vec<String> = (0..LIMITS.finished * 2).map(|number| number.to_string()).collect();
        assert_eq!(remembered(&ids).len(), LIMITS.finished / 2);
        assert_eq!(remembered(&ids).last(), ids.last());
        assert_eq!(remembered(&ids[..10]), &ids[..10]);
    }

    #[test]
    fn latency_is_what_the_cluster_stamped() {
        let stamped = |submitted: &str, finished: &str| Job {
            submitted_at: Some(submitted.to_owned()),
            finished_at: Some(finished.to_owned()),
            ..Job::default()
        };
        let job = stamped("2026-01-01T00:00:00.250Z", "2026-01-01T00:00:01.000Z");
        assert_eq!(took(&job), Some(Duration::from_millis(750)));
        assert_eq!(took(&stamped("2026-01-01T00:00:02.000Z", "2026-01-01T00:00:01.000Z")), None);
        assert_eq!(took(&Job::default()), None);
    }
}
