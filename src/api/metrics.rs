//! `GET /metrics` and its history.

use warp::reply::Response;

use super::blockchain;
use super::kafka::Picture;
use super::params::{Kind, Param};
use super::problem::Problem;
use super::request::Request;
use super::route::Route;
use super::status::{dead_voters, job_counts, worker_counts};
use super::{Api, Context, respond, text};
use crate::clock;
use crate::consensus::Role;
use crate::telemetry;
use crate::telemetry::metrics::{self, Gauges, Retained};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn routes() -> Vec<Route> {
    let format = Kind::Choice(vec!["openmetrics", "json"]);
    let text_schema = serde_json::json!({"type": "string"});
    let any = serde_json::json!({"type": "object"});
    vec![
        Route::get("/metrics", "Counters, gauges and histograms of this node", get)
            .param(Param::new("format", format, "Instead of the Accept header."))
            .answers_raw(200, "The metrics", vec![(OPENMETRICS, text_schema), ("application/json", any)]),
        Route::get("/metrics/history", "Stored series of the key figures of this node", history)
            .param(Param::new("name", Kind::Text(128), "One series; all without it."))
            .param(Param::new("from", Kind::Time, "Not before."))
            .param(Param::new("to", Kind::Time, "Not after."))
            .param(Param::new(
                "step",
                Kind::Integer { min: 1, max: 86_400 },
                "Seconds between points; without it, about a thousand points of the range.",
            ))
            .answers_raw(200, "The series", vec![("application/json", serde_json::json!({"type": "object"}))]),
    ]
}

/// Values of the node at this moment, for a scrape.
pub fn gauges(context: &Context) -> Gauges {
    let status = context.client.status();
    let storage = context.client.storage();
    let archive = context.client.archive();
    let kafka = Picture::of(context).gauges();
    let chain = blockchain::Picture::of(context).gauges();
    context.client.read(|state| Gauges {
        jobs: job_counts(state),
        workers: worker_counts(state),
        jobs_submitted_total: state.submitted_total(),
        leader: status.role == Role::Leader,
        voters_dead: dead_voters(&status).len() as u64,
        term: status.term,
        applied: state.applied(),
        committed: status.committed,
        staleness_ms: status.staleness_ms,
        peers_connected: context.mesh.stats().peers_connected,
        journal_seq: state.journal().last_seq(),
        callbacks_waiting: state.callbacks().len() as u64,
        callback_receivers: state.callbacks().receivers() as u64,
        retained: Retained {
            hot: state.hot_jobs() as u64,
            cold: state.archive().jobs(),
            removed: state.archive().removed_total(),
            segments: state.archive().segment_count() as u64,
            bytes: state.archive().bytes(),
            waiting: archive.waiting,
            missing: archive.missing,
        },
        storage_used_bytes: storage.used_bytes,
        storage_free_bytes: storage.free_bytes,
        sync_p50_us: storage.sync.p50_us,
        sync_p99_us: storage.sync.p99_us,
        uptime_secs: clock::now().since(context.info.started) / 1_000,
        kafka,
        chain,
        backup: context.backup.view().scheduled.then(|| backup(context)),
    })
}

fn backup(context: &Context) -> metrics::Backup {
    let view = context.backup.view();
    metrics::Backup {
        taken: view.taken,
        failed: view.failed,
        last_at_ms: view.last.as_ref().map(|done| done.at.0),
        last_bytes: view.last.as_ref().map(|done| done.bytes),
        failing: view.error.is_some(),
    }
}

async fn get(api: Api, request: Request) -> Result<Response, Problem> {
    let gauges = gauges(&api.context);
    let json = match request.text("format") {
        Some(format) => format == "json",
        None => request.accepts("application/json"),
    };
    if json {
        return respond::json(&metrics::render_json(&gauges));
    }
    Ok(respond::text(OPENMETRICS, metrics::render_text(&gauges)))
}

async fn history(_api: Api, request: Request) -> Result<Response, Problem> {
    let moment = |name| request.text(name).and_then(text::parse_time).map(|at| at.0);
    let step_ms = request.integer("step").map(|step| step * 1_000);
    respond::json(&telemetry::history::query(request.text("name"), moment("from"), moment("to"), step_ms))
}
