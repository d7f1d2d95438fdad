//! Kafka, as far as this node goes: it is not connected to it, and says so.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::page;
use super::problem::{Code, Problem};
use super::request::Request;
use super::route::Route;
use super::{Api, respond};
use crate::domain::State;
use crate::domain::journal::Sink;

pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/kafka/status", "The connection to Kafka", status)
            .fresh()
            .answers::<KafkaStatus>(200, "Connection, brokers and intake"),
        Route::get("/kafka/stats", "Messages, lag and rates by topic", stats)
            .fresh()
            .answers::<KafkaStats>(200, "The figures"),
        Route::get("/kafka/dead-letter-queue", "Messages that could not be taken in", dead_letters)
            .params(page::params(16))
            .fresh()
            .answers::<DeadLetterList>(200, "The size of the queue and a page of its entries"),
        Route::post("/kafka/dead-letter-queue/{id}/replay", "Put an entry back", no_entry)
            .problems(&[Code::UnknownDeadLetter]),
        Route::delete("/kafka/dead-letter-queue/{id}", "Drop an entry", no_entry).problems(&[Code::UnknownDeadLetter]),
    ]
}

#[derive(Serialize, ToSchema)]
struct KafkaStatus {
    #[schema(pattern = "^(connected|connecting|down|disabled)$")]
    state: &'static str,
    bootstrap_servers: Vec<String>,
    /// embedded or external; null while disabled.
    mode: Option<String>,
    delivery: Option<String>,
    cluster_id: Option<String>,
    brokers: Vec<String>,
    intake: Vec<Intake>,
    /// Number of the newest event that is published.
    journal_cursor: Option<u64>,
    dead_letters: u64,
    last_error: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Intake {
    topic: String,
    partition: u32,
    next_offset: u64,
    high_watermark: u64,
    lag: u64,
}

#[derive(Serialize, ToSchema)]
struct KafkaStats {
    #[schema(pattern = "^(connected|connecting|down|disabled)$")]
    state: &'static str,
    topics: Vec<TopicFigures>,
}

#[derive(Serialize, ToSchema)]
struct TopicFigures {
    topic: String,
    messages_in: u64,
    messages_out: u64,
    lag: u64,
    messages_per_second: f64,
}

#[derive(Serialize, ToSchema)]
struct DeadLetterList {
    size: u64,
    entries: Vec<DeadLetter>,
    next_cursor: Option<String>,
    applied_index: u64,
}

#[derive(Serialize, ToSchema)]
struct DeadLetter {
    id: String,
    topic: String,
    partition: u32,
    offset: u64,
    reason: String,
}

async fn status(api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&KafkaStatus {
        state: "disabled",
        bootstrap_servers: vec![],
        mode: None,
        delivery: None,
        cluster_id: None,
        brokers: vec![],
        intake: vec![],
        journal_cursor: api.client().read(|state| state.journal().cursor(Sink::Kafka)),
        dead_letters: 0,
        last_error: None,
    })
}

async fn stats(_api: Api, _request: Request) -> Result<Response, Problem> {
    respond::json(&KafkaStats { state: "disabled", topics: vec![] })
}

async fn dead_letters(api: Api, _request: Request) -> Result<Response, Problem> {
    let applied_index = api.client().read(State::applied);
    respond::json(&DeadLetterList { size: 0, entries: vec![], next_cursor: None, applied_index })
}

async fn no_entry(_api: Api, _request: Request) -> Result<Response, Problem> {
    Err(Problem::new(Code::UnknownDeadLetter, "the queue is empty: Kafka is disabled on this node"))
}
