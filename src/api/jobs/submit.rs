//! Writes to jobs.

use std::sync::Arc;

use bytes::Bytes;
use warp::reply::Response;

use super::body::{BatchBody, ItemBody, JobBody};
use super::read::{look, unknown, with_job};
use crate::api::problem::{Code, Problem};
use crate::api::request::{Request, media_type};
use crate::api::{Api, Limits, decode, respond};
use crate::clock;
use crate::consensus::Client;
use crate::domain::command::{Refusal, Reply, Submit};
use crate::domain::job::Source;
use crate::domain::{Command, Done, JobId, State, Timestamp};
use crate::submission::{Checked, Door, FieldError, Submission};

/// Bodies above this are parsed on a thread of their own, so that they do not hold up other requests.
const PARSE_INLINE: usize = 64 << 10;

const CANCEL_REASON: &str = "cancelled by the client";

pub async fn one(api: Api, request: Request) -> Result<Response, Problem> {
    let key = request.idempotency_key()?;
    let door = api.limits().door;
    let checked = parsed(&api, request.body, move |body| {
        let submission: Submission = decode::json(body)?;
        Ok(submission.check(door)?)
    })
    .await?;
    let id = key.as_deref().map_or_else(fresh_id, |key| JobId::from_key("api", key));
    if let Err(refused) = ready(&checked, clock::now(), least(&api)) {
        repeat_or(&api, key.is_some(), id, refused.into()).await?;
    }
    let (_, reply) = api.client().submit(command(id, checked), api.limits().write_deadline).await?;
    let created = created(reply)?;
    let body = look(&api, id, JobBody::of).await?;
    respond::placed(created, &format!("/jobs/{id}"), &body)
}

/// What the contract takes no less than for a job, if this node knows.
fn least(api: &Api) -> Option<u128> {
    api.context.chain.as_ref().and_then(crate::chain::Handle::min_payment)
}

/// What holds now, and may not have held before.
fn ready(checked: &Checked, now: Timestamp, least: Option<u128>) -> Result<(), FieldError> {
    checked.deadline_ahead(now).and_then(|()| checked.pays_enough(least))
}

/// A retry must get the first outcome, also when the deadline has passed meanwhile, or the contract takes more.
async fn repeat_or(api: &Api, keyed: bool, id: JobId, refused: Problem) -> Result<(), Problem> {
    if !keyed {
        return Err(refused);
    }
    api.client().linearize(api.limits().read_deadline).await?;
    let known = api.client().read(|state| state.remembers(id));
    if known { Ok(()) } else { Err(refused) }
}

pub async fn batch(api: Api, request: Request) -> Result<Response, Problem> {
    let key = request.idempotency_key()?;
    let lines = media_type(&request.headers).is_some_and(|name| name == "application/x-ndjson");
    let bounds = Bounds::of(api.limits());
    let parse = move |body: &[u8]| if lines { from_lines(body, bounds) } else { from_array(body, bounds) };
    let items = parsed(&api, request.body.clone(), parse).await?;

    let (now, least) = (clock::now(), least(&api));
    let refused = |item: &Item| item.as_ref().is_ok_and(|checked| ready(checked, now, least).is_err());
    if key.is_some() && items.iter().any(refused) {
        // A retry must get the first outcome, which this node may not know of yet.
        api.client().linearize(api.limits().read_deadline).await?;
    }
    let view = api.client().view();
    let Decided { ids, commands, refused } =
        api.aside(move || decide(&view, key.as_deref(), items, (now, least))).await?;
    let replies = commit(&api, commands).await?;
    let view = api.client().view();
    let client = api.client().clone();
    let job = move |id| job_body(&view, &client, id);
    let applied = api.client().read(State::applied);
    api.aside(move || respond::json(&batch_body(job, applied, &request.id, &ids, refused, replies))).await?
}

/// A batch, item by item: its id, and why it is refused if it is; and what to commit of the others.
struct Decided {
    ids: Vec<JobId>,
    refused: Vec<Option<Problem>>,
    commands: Vec<Command>,
}

/// `least`: see [`ready`].
fn decide(view: &State, key: Option<&str>, items: Vec<Item>, (now, least): (Timestamp, Option<u128>)) -> Decided {
    let mut decided = Decided { ids: vec![], refused: Vec::with_capacity(items.len()), commands: vec![] };
    for (index, item) in items.into_iter().enumerate() {
        let id = key.map_or_else(fresh_id, |key| JobId::from_key("api batch", &format!("{key}#{index}")));
        let decided_on = item.and_then(|checked| {
            let known = key.is_some() && view.remembers(id);
            if !known {
                ready(&checked, now, least)?;
            }
            Ok(command(id, checked))
        });
        decided.ids.push(id);
        decided.refused.push(match decided_on {
            Ok(command) => {
                decided.commands.push(command);
                None
            }
            Err(problem) => Some(problem),
        });
    }
    decided
}

async fn commit(api: &Api, commands: Vec<Command>) -> Result<Vec<Reply>, Problem> {
    if commands.is_empty() {
        return Ok(vec![]);
    }
    let sent = commands.len();
    let replies = api.client().submit_many(commands, api.limits().write_deadline).await?.replies;
    if replies.len() == sent {
        return Ok(replies);
    }
    tracing::error!(sent, answered = replies.len(), "a batch was answered in part");
    Err(Problem::new(Code::OutcomeUnknown, "not every item of the batch was answered"))
}

fn batch_body(
    job: impl Fn(JobId) -> Result<JobBody, Problem>,
    applied_index: u64,
    request_id: &str,
    ids: &[JobId],
    refused: Vec<Option<Problem>>,
    replies: Vec<Reply>,
) -> BatchBody {
    let mut replies = replies.into_iter();
    let results: Vec<_> = refused
        .into_iter()
        .zip(ids)
        .enumerate()
        .map(|(index, (problem, id))| {
            let result = match problem {
                Some(problem) => Err(problem),
                None => replies.next().map_or_else(
                    || Err(Problem::new(Code::Internal, "the item was not answered")),
                    |reply| Ok((created(reply)?, job(*id)?)),
                ),
            };
            match result {
                Ok((created, job)) => {
                    ItemBody { index, status: if created { 201 } else { 200 }, job: Some(job), problem: None }
                }
                Err(problem) => {
                    let status = problem.code.status();
                    ItemBody { index, status, job: None, problem: Some(problem.body(request_id)) }
                }
            }
        })
        .collect();
    let accepted = results.iter().filter(|item| item.job.is_some()).count();
    BatchBody { accepted, refused: results.len() - accepted, results, applied_index }
}

type Item = Result<Checked, Problem>;

/// What a batch is held to.
#[derive(Clone, Copy)]
struct Bounds {
    items: usize,
    /// An item has no more room than a body of its own would have: what is parsed takes a multiple of its text.
    item_bytes: usize,
    door: Door,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        Self { items: limits.batch_items, item_bytes: limits.body_bytes, door: limits.door }
    }

    fn item(self, text: &[u8]) -> Item {
        if text.len() > self.item_bytes {
            let detail = format!("the item has {} bytes, the limit is {}", text.len(), self.item_bytes);
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        Ok(decode::json::<Submission>(text)?.check(self.door)?)
    }
}

fn from_array(body: &[u8], bounds: Bounds) -> Result<Vec<Item>, Problem> {
    let items = decode::array(body, bounds.items)?;
    bounded(items.len(), bounds.items)?;
    Ok(items.into_iter().map(|item| bounds.item(item.get().as_bytes())).collect())
}

fn from_lines(body: &[u8], bounds: Bounds) -> Result<Vec<Item>, Problem> {
    let lines: Vec<_> = body
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .take(bounds.items + 1)
        .collect();
    bounded(lines.len(), bounds.items)?;
    Ok(lines.into_iter().map(|line| bounds.item(line)).collect())
}

fn bounded(items: usize, most: usize) -> Result<(), Problem> {
    if (1..=most).contains(&items) {
        return Ok(());
    }
    let detail = if items == 0 {
        format!("a batch has from 1 to {most} items, this one has none")
    } else {
        format!("a batch has from 1 to {most} items, this one has more")
    };
    Err(Problem::new(Code::InvalidField, detail))
}

pub async fn cancel(api: Api, request: Request) -> Result<Response, Problem> {
    let job = request.job()?;
    let reason = request.text("reason").unwrap_or(CANCEL_REASON).to_owned();
    let (_, reply) = api.client().submit(Command::Cancel { job, reason }, api.limits().write_deadline).await?;
    reply.map_err(|refusal| refused(&api, job, refusal))?;
    let body = look(&api, job, JobBody::of).await?;
    respond::json(&body)
}

/// Once or twice is the same: a job that is under way is answered as it is.
pub async fn retry(api: Api, request: Request) -> Result<Response, Problem> {
    let job = request.job()?;
    let (_, reply) = api.client().submit(Command::Retry { job }, api.limits().write_deadline).await?;
    reply.map_err(|refusal| refused(&api, job, refusal))?;
    let body = look(&api, job, JobBody::of).await?;
    respond::json(&body)
}

/// Parses a body, away from the runtime's threads when it is large.
async fn parsed<T: Send + 'static>(
    api: &Api,
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if body.len() <= PARSE_INLINE {
        return parse(&body);
    }
    api.aside(move || parse(&body)).await?
}

fn command(id: JobId, checked: Checked) -> Command {
    let fingerprint = checked.fingerprint();
    let Checked { spec, payload, .. } = checked;
    Command::Submit(Box::new(Submit { id, spec, payload, fingerprint, source: Source::Api }))
}

fn fresh_id() -> JobId {
    JobId(clock::uuid().into_bytes())
}

fn created(reply: Reply) -> Result<bool, Problem> {
    match reply? {
        Done::Submitted { created, .. } => Ok(created),
        other => {
            tracing::error!(?other, "a submission was answered like something else");
            Err(Problem::new(Code::Internal, "the submission was not answered"))
        }
    }
}

/// Blocking: the job may be in the archive.
fn job_body(view: &Arc<State>, client: &Client, id: JobId) -> Result<JobBody, Problem> {
    let state = with_job(view, client, id)?;
    state.job(id).map(|job| JobBody::of(&state, job)).ok_or_else(|| unknown(id))
}

/// Why a job is not changed. One in the archive has ended, whatever memory knows of it.
fn refused(api: &Api, id: JobId, refusal: Refusal) -> Problem {
    match (&refusal, api.client().archived_state(id)) {
        (Refusal::UnknownJob(_), Some(state)) => {
            let detail = format!("job {id} is already {}, and in the archive", state.as_str());
            Problem::new(Code::AlreadyFinished, detail)
        }
        _ => refusal.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"type":"sha256","payload":"aGk="}"#;

    fn up_to(items: usize) -> Bounds {
        Bounds { items, item_bytes: 1_000, door: 16.into() }
    }

    #[test]
    fn items_are_judged_alone_and_keep_their_order() {
        let array = format!(r#"[{GOOD},{{"type":"sha256"}},7,{GOOD}]"#);
        let lines = format!("{GOOD}\r\n{{\"type\":\"sha256\"}}\n\n7\n{GOOD}\n");
        for items in [from_array(array.as_bytes(), up_to(10)), from_lines(lines.as_bytes(), up_to(10))] {
            let codes: Vec<_> =
                items.unwrap().iter().map(|item| item.as_ref().err().map(|problem| problem.code)).collect();
            assert_eq!(codes, [None, Some(Code::MissingField), Some(Code::InvalidField), None]);
        }
    }

    #[test]
    fn a_broken_line_spoils_only_itself() {
        let lines = format!("{GOOD}\n{{\n{GOOD}");
        let items = from_lines(lines.as_bytes(), up_to(10)).unwrap();
        assert_eq!(items.iter().filter(|item| item.is_ok()).count(), 2);
        assert_eq!(items[1].as_ref().unwrap_err().code, Code::InvalidJson);
        assert_eq!(from_array(b"[{", up_to(10)).unwrap_err().code, Code::InvalidJson);
        assert_eq!(from_array(b"{}", up_to(10)).unwrap_err().code, Code::InvalidField);
    }

    #[test]
    fn batches_are_bounded() {
        let array = format!("[{}]", [GOOD; 3].join(","));
        assert!(from_array(array.as_bytes(), up_to(3)).is_ok());
        assert!(from_array(array.as_bytes(), up_to(2)).is_err());
        assert!(from_array(b"[]", up_to(2)).is_err());
        assert!(from_lines(b"\n\n", up_to(2)).is_err());
    }

    #[test]
    fn an_item_has_no_more_room_than_a_job_submitted_alone() {
        let large = format!(r#"{{"type":"sha256","payload":"","tags":[{}]}}"#, vec![r#""""#; 1_000].join(","));
        for items in [
            from_array(format!("[{GOOD},{large}]").as_bytes(), up_to(10)),
            from_lines(format!("{GOOD}\n{large}").as_bytes(), up_to(10)),
        ] {
            let items = items.unwrap();
            assert!(items[0].is_ok());
            assert_eq!(items[1].as_ref().unwrap_err().code, Code::BodyTooLarge);
        }
    }
}
