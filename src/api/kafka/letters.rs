//! The dead letters: records that could not be taken in, listed, looked at, sent back, dropped.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use crate::api::page::{self, Page, after};
use crate::api::problem::{Code, Problem};
use crate::api::request::Request;
use crate::api::route::Route;
use crate::api::{Api, respond, text};
use crate::domain::journal::Sink;
use crate::domain::kafka::{Dead, Header};
use crate::domain::{Command, State};

pub fn routes() -> Vec<Route> {
    let known = &[Code::UnknownDeadLetter];
    vec![
        Route::get("/kafka/dead-letter-queue", "Records that could not be taken in", list)
            .params(page::params(8))
            .fresh()
            .answers::<DeadLetterList>(200, "The size of the queue and a page of its entries, oldest first"),
        Route::get("/kafka/dead-letter-queue/{id}", "A dead letter with its record, byte for byte", get)
            .fresh()
            .answers::<WholeLetter>(200, "The letter")
            .problems(known),
        Route::post("/kafka/dead-letter-queue/{id}/replay", "Send a dead letter back to its topic", replay)
            .answers::<DeadLetter>(200, "It is on its way, or was already; it leaves the queue when Kafka has it")
            .write()
            .problems(known),
        Route::delete("/kafka/dead-letter-queue/{id}", "Drop a dead letter from the queue", drop)
            .answers_raw(204, "Dropped. What was published stays on the dead-letter topic", vec![])
            .write()
            .problems(known),
    ]
}

#[derive(Serialize, ToSchema)]
pub struct DeadLetterList {
    /// Letters in the queue, and their bytes.
    pub size: u64,
    pub bytes: u64,
    pub entries: Vec<DeadLetter>,
    pub next_cursor: Option<String>,
    pub applied_index: u64,
}

#[derive(Serialize, ToSchema)]
pub struct DeadLetter {
    /// Number of the event that made it; ids ascend.
    pub id: String,
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    /// Why it could not be taken in: stable, for machines.
    pub code: String,
    /// The same for people.
    pub message: String,
    /// When it failed first.
    #[schema(format = DateTime)]
    pub failed_at: String,
    /// Times it was tried.
    pub attempts: u32,
    /// On its way back to its topic.
    pub replaying: bool,
    /// Kafka has it on the dead-letter topic.
    pub published: bool,
    /// The record's own time.
    #[schema(format = DateTime)]
    pub timestamp: Option<String>,
    /// Bytes; null if the record has none.
    pub key_size: Option<u64>,
    pub value_size: Option<u64>,
    pub header_count: u64,
    /// False: the value was too large to be kept, so the letter can not be replayed.
    pub complete: bool,
}

impl DeadLetter {
    fn of(dead: &Dead, state: &State) -> Self {
        let letter = &dead.letter;
        let published = state.journal().cursor(Sink::Kafka).is_some_and(|cursor| cursor >= dead.id);
        let value_size = letter.value.as_ref().map(|value| size(value));
        Self {
            id: dead.id.to_string(),
            topic: letter.partition.topic.to_string(),
            partition: letter.partition.number,
            offset: letter.offset,
            code: letter.code.to_string(),
            message: letter.message.to_string(),
            failed_at: text::time(dead.failed_at),
            attempts: letter.attempts,
            replaying: dead.replay.is_some(),
            published,
            timestamp: letter.timestamp_ms.map(|ms| text::time(crate::domain::Timestamp(ms))),
            key_size: letter.key.as_ref().map(|key| size(key)),
            value_size: value_size.or((letter.left_out > 0).then_some(letter.left_out)),
            header_count: letter.headers.len() as u64,
            complete: letter.left_out == 0,
        }
    }
}

fn size(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// A letter and the record it was.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterDetail)]
pub struct WholeLetter {
    #[serde(flatten)]
    pub letter: DeadLetter,
    pub key: Option<BytesBody>,
    /// Null if the record has none, or it was too large to be kept.
    pub value: Option<BytesBody>,
    pub headers: Vec<HeaderBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaBytes)]
pub struct BytesBody {
    pub base64: String,
    /// The same as text, if it is UTF-8.
    pub text: Option<String>,
}

impl BytesBody {
    fn of(bytes: &[u8]) -> Self {
        Self { base64: text::base64(bytes), text: std::str::from_utf8(bytes).ok().map(str::to_owned) }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = KafkaHeader)]
pub struct HeaderBody {
    pub name: String,
    pub value: Option<BytesBody>,
}

impl HeaderBody {
    fn of(header: &Header) -> Self {
        Self { name: header.name.to_string(), value: header.value.as_deref().map(BytesBody::of) }
    }
}

async fn list(api: Api, request: Request) -> Result<Response, Problem> {
    respond::json(&api.client().read(|state| list_of(state, &request)))
}

pub fn list_of(state: &State, request: &Request) -> DeadLetterList {
    let kafka = state.kafka();
    let mut page = Page::of(request);
    for dead in kafka.letters_after(after::<8>(request).map(u64::from_be_bytes)) {
        if !page.push(dead.id.to_be_bytes(), || DeadLetter::of(dead, state)) {
            break;
        }
    }
    let (entries, next_cursor) = page.finish();
    DeadLetterList {
        size: kafka.letters() as u64,
        bytes: kafka.letter_bytes() as u64,
        entries,
        next_cursor,
        applied_index: state.applied(),
    }
}

async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.letter()?;
    let view = api.client().view();
    respond::json(&whole_of(&view, id).ok_or_else(|| unknown(id))?)
}

pub fn whole_of(state: &State, id: u64) -> Option<WholeLetter> {
    let dead = state.kafka().letter(id)?;
    Some(WholeLetter {
        letter: DeadLetter::of(dead, state),
        key: dead.letter.key.as_deref().map(BytesBody::of),
        value: dead.letter.value.as_deref().map(BytesBody::of),
        headers: dead.letter.headers.iter().map(HeaderBody::of).collect(),
    })
}

async fn replay(api: Api, request: Request) -> Result<Response, Problem> {
    let id = request.letter()?;
    let before = api.client().read(|state| state.kafka().letter(id).map(|dead| DeadLetter::of(dead, state)));
    write(&api, Command::ReplayLetter { letter: id }).await?;
    // It may have arrived by now, and be gone from the queue.
    let now = api.client().read(|state| state.kafka().letter(id).map(|dead| DeadLetter::of(dead, state)));
    let body = now.or(before).ok_or_else(|| unknown(id))?;
    respond::json(&DeadLetter { replaying: true, ..body })
}

async fn drop(api: Api, request: Request) -> Result<Response, Problem> {
    write(&api, Command::DropLetter { letter: request.letter()? }).await?;
    Ok(respond::empty())
}

async fn write(api: &Api, command: Command) -> Result<(), Problem> {
    let (_, reply) = api.client().submit(command, api.limits().write_deadline).await?;
    reply?;
    Ok(())
}

fn unknown(id: u64) -> Problem {
    Problem::new(Code::UnknownDeadLetter, format!("dead letter {id} is not in the queue"))
}
