//! The operator's own command that vetoes bids or names other prices.
//!
//! It is asked once per announcement, about the bids this worker would make: JSON
//! on standard input, JSON on standard output (docs/worker.md). What it does not
//! name is not bid for. No answer in time, a bad one, or no room to ask: no bid.
//! The bidder stays pure; this is between it and the mesh.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::config::Amount;
use crate::wire;
use crate::wire::proto::mesh::v1::{Announcement, Bid, Bids, OpenJob};

/// Bytes of an answer.
const ANSWER_MAX: u64 = 256 * 1024;

/// What the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub limit: Duration,
    /// Commands that run at once. Beyond it nothing is bid.
    pub parallel: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Appraiser {
    rule: Arc<Rule>,
    places: Arc<Semaphore>,
}

#[derive(Serialize)]
struct Question<'a> {
    room: u32,
    load_permille: u32,
    jobs: Vec<Candidate<'a>>,
}

/// A job we would bid for, at `price`.
#[derive(Serialize)]
struct Candidate<'a> {
    id: String,
    attempt: u32,
    #[serde(rename = "type")]
    kind: &'a str,
    price: String,
    max_price: Option<String>,
    expected_ms: u32,
    input_size: u64,
    timeout_secs: u32,
    priority: u32,
    client_address: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    bids: Vec<Verdict>,
}

#[derive(Deserialize)]
struct Verdict {
    id: String,
    /// None: the price we would ask.
    price: Option<Amount>,
}

impl Appraiser {
    pub fn new(rule: Rule) -> Self {
        let places = Arc::new(Semaphore::new(rule.parallel as usize));
        Self { rule: Arc::new(rule), places }
    }

    /// What is left of `bids`, well before the auction closes.
    pub async fn appraise(&self, announcement: &Announcement, mut bids: Bids) -> Bids {
        let asked = std::mem::take(&mut bids.bids);
        if asked.is_empty() {
            return bids;
        }
        let jobs: BTreeMap<&[u8], &OpenJob> = announcement.jobs.iter().map(|job| (job.id.as_ref(), job)).collect();
        let Ok(_place) = self.places.try_acquire() else {
            debug!("the appraisal command is busy: no bid");
            return bids;
        };
        let limit = self.rule.limit.min(Duration::from_millis(u64::from(announcement.window_ms) / 2));
        match tokio::time::timeout(limit, self.ask(&question(&bids, &asked, &jobs))).await {
            Ok(Ok(answer)) => bids.bids = kept(asked, &jobs, answer),
            Ok(Err(error)) => warn!(error, "the appraisal command has no answer: no bid"),
            Err(_) => warn!(limit_ms = limit.as_millis(), "the appraisal command took too long: no bid"),
        }
        bids
    }

    /// May be dropped: then the command and its children are killed.
    async fn ask(&self, question: &Question<'_>) -> Result<Answer, String> {
        let question = serde_json::to_vec(question).map_err(|error| format!("write question: {error}"))?;
        let mut command = Command::new(&self.rule.path);
        command.args(&self.rule.arguments).env_clear().envs(&self.rule.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.process_group(0).kill_on_drop(true).spawn();
        let mut group = Group(child.map_err(|error| format!("start {}: {error}", self.rule.path.display()))?);
        let (stdin, stdout) = (group.0.stdin.take(), group.0.stdout.take());
        let say = async {
            if let Some(mut stdin) = stdin {
                // One that answers without listening is within its rights.
                let _ = stdin.write_all(&question).await;
            }
        };
        let hear = async {
            let mut said = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(ANSWER_MAX + 1).read_to_end(&mut said).await?;
            }
            Ok::<_, std::io::Error>(said)
        };
        let ((), said) = tokio::join!(say, hear);
        let said = said.map_err(|error| format!("read answer: {error}"))?;
        if said.len() as u64 > ANSWER_MAX {
            return Err(format!("it says more than {ANSWER_MAX} bytes"));
        }
        let status = group.0.wait().await.map_err(|error| format!("wait: {error}"))?;
        if !status.success() {
            return Err(format!("it ended with {status}"));
        }
        serde_json::from_slice(&said).map_err(|error| format!("its answer is not what it should be: {error}"))
    }
}

/// Ends with all it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Only while it is not reaped: afterwards the id may be somebody else's.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn question<'a>(bids: &Bids, asked: &[Bid], jobs: &BTreeMap<&[u8], &'a OpenJob>) -> Question<'a> {
    let candidate = |bid: &Bid| {
        let job = *jobs.get(bid.job.as_ref())?;
        let max = (!job.any_price).then(|| wire::price_from_bytes(&job.max_price)).flatten();
        Some(Candidate {
            id: wire::job_id(&bid.job)?.to_string(),
            attempt: bid.attempt,
            kind: &job.r#type,
            price: wire::price_from_bytes(&bid.price)?.to_string(),
            max_price: max.map(|price| price.to_string()),
            expected_ms: bid.expected_ms,
            input_size: job.input_size,
            timeout_secs: job.timeout_secs,
            priority: job.priority,
            client_address: (!job.client.is_empty()).then_some(job.client.as_str()),
        })
    };
    let jobs = asked.iter().filter_map(candidate).collect();
    Question { room: bids.room, load_permille: bids.load_permille, jobs }
}

/// The bids that were named, at the price that was named; none above what the job pays.
fn kept(asked: Vec<Bid>, jobs: &BTreeMap<&[u8], &OpenJob>, answer: Answer) -> Vec<Bid> {
    let named: BTreeMap<String, Option<Amount>> = answer.bids.into_iter().map(|bid| (bid.id, bid.price)).collect();
    let keep = |mut bid: Bid| {
        let price = named.get(&wire::job_id(&bid.job)?.to_string())?;
        if let Some(Amount(price)) = price {
            let job = jobs.get(bid.job.as_ref())?;
            let pays = job.any_price || wire::price_from_bytes(&job.max_price).is_some_and(|max| *price <= max);
            if !pays {
                return None;
            }
            bid.price = wire::price_to_bytes(*price);
        }
        Some(bid)
    };
    asked.into_iter().filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock;
    use crate::domain::{JobId, Price};

    fn appraiser(script: &str, limit: u64) -> Appraiser {
        Appraiser::new(Rule {
            path: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            limit: Duration::from_millis(limit),
            parallel: 1,
        })
    }

    fn id(job: u8) -> String {
        JobId([job; 16]).to_string()
    }

    fn announcement() -> Announcement {
        let job = |job: u8| OpenJob {
            id: Bytes::copy_from_slice(&[job; 16]),
            r#type: "nlp".to_owned(),
            max_price: wire::price_to_bytes(Price(50)),
            client: "0xabc".to_owned(),
            ..OpenJob::default()
        };
        Announcement { window_ms: 20_000, jobs: (1..=3).map(job).collect(), ..Announcement::default() }
    }

    fn bids() -> Bids {
        let bid = |job: u8| Bid {
            job: Bytes::copy_from_slice(&[job; 16]),
            attempt: 1,
            price: wire::price_to_bytes(Price(10)),
            expected_ms: 7,
        };
        Bids { room: 4, bids: (1..=3).map(bid).collect(), ..Bids::default() }
    }

    /// Which jobs are still bid for, and at what price.
    async fn left(script: &str, limit: u64) -> Vec<(u8, u128)> {
        let left = appraiser(script, limit).appraise(&announcement(), bids()).await;
        assert_eq!(left.room, 4);
        left.bids.iter().map(|bid| (bid.job[0], wire::price_from_bytes(&bid.price).unwrap().0)).collect()
    }

    #[tokio::test]
    async fn what_it_names_is_bid_for_at_the_price_it_names() {
        let answer = format!(
            r#"cat > /dev/null; echo '{{"bids": [{{"id": "{}"}}, {{"id": "{}", "price": "42"}}, {{"id": "{}", "price": "51"}}]}}'"#,
            id(1),
            id(2),
            id(3)
        );
        assert_eq!(left(&answer, 10_000).await, [(1, 10), (2, 42)], "the third would not be paid");
        assert_eq!(left(r#"echo '{"bids": [{"id": "unknown"}]}'"#, 10_000).await, []);
    }

    #[tokio::test]
    async fn it_is_told_what_the_bid_is_about() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("question");
        left(&format!(r#"cat > {}; echo '{{"bids": []}}'"#, note.display()), 10_000).await;
        let asked: serde_json::Value = serde_json::from_slice(&std::fs::read(note).unwrap()).unwrap();
        let first = &asked["jobs"][0];
        assert_eq!((&asked["room"], &first["id"], &first["type"]), (&4.into(), &id(1).into(), &"nlp".into()));
        assert_eq!((&first["price"], &first["max_price"]), (&"10".into(), &"50".into()));
        assert_eq!((&first["client_address"], &first["expected_ms"]), (&"0xabc".into(), &7.into()));
    }

    #[tokio::test]
    async fn no_answer_is_no_bid() {
        for script in ["exit 1", "echo nonsense", "true", "yes", r#"echo '{"bids": []}'; exit 3"#] {
            assert_eq!(left(script, 10_000).await, [], "{script}");
        }
    }

    #[tokio::test]
    async fn a_slow_one_is_killed_and_no_second_waits_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("pid");
        let slow = appraiser(&format!("echo $$ > {}; sleep 60 & wait", note.display()), 500);
        let start = clock::instant();
        let (announcement, second) = (announcement(), slow.clone());
        let (first, second) =
            tokio::join!(slow.appraise(&announcement, bids()), second.appraise(&announcement, bids()));
        assert_eq!((first.bids.len(), second.bids.len()), (0, 0));
        assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
        let pid = std::fs::read_to_string(note).unwrap();
        let dies = async {
            let stat = format!("/proc/{}/stat", pid.trim());
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), dies).await.unwrap();
    }
}
