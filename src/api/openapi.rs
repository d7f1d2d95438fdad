//! The contract as this node keeps it: `/openapi.json`, a page of it to read,
//! and the dashboard.
//!
//! The document is made once, from the same routes that the router serves.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use warp::http::{HeaderValue, header};
use warp::reply::Response;

use super::problem::{self, Code, Problem};
use super::request::Request;
use super::route::{Answer, BodySpec, Route};
use super::{Api, Limits, respond, text};
use crate::clock;

mod page;

const DASHBOARD: &str = include_str!("dashboard.html");
const HTML: &str = "text/html; charset=utf-8";

/// Scripts and styles are in the page; nothing is loaded from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn routes() -> Vec<Route> {
    let page = || vec![(HTML, json!({"type": "string"}))];
    vec![
        Route::get("/openapi.json", "This contract, as OpenAPI 3.1", document).answers_raw(
            200,
            "The document",
            vec![("application/json", json!({"type": "object"}))],
        ),
        Route::get("/docs", "This contract, as a page to read", docs).answers_raw(200, "The page", page()),
        Route::get("/", "The dashboard of this node", dashboard).answers_raw(200, "The page", page()),
    ]
}

/// The document, made once.
pub struct Contract {
    json: Bytes,
    page: String,
}

impl Contract {
    pub fn of(routes: &[Route], version: &str, limits: &Limits) -> Self {
        let document = document_of(routes, version, limits);
        Self { json: document.to_string().into(), page: page::of(routes, version) }
    }
}

async fn document(api: Api, _request: Request) -> Result<Response, Problem> {
    Ok(respond::text("application/json", api.contract.json.clone()))
}

async fn docs(api: Api, _request: Request) -> Result<Response, Problem> {
    Ok(html(&api.contract.page))
}

async fn dashboard(_api: Api, _request: Request) -> Result<Response, Problem> {
    Ok(html(DASHBOARD))
}

fn html(page: &str) -> Response {
    let mut response = respond::text(HTML, page);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// The whole document.
pub fn document_of(routes: &[Route], version: &str, limits: &Limits) -> Value {
    let mut paths: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::new();
    let mut problem = Route::get("/", "", |_, _| async { Err(Problem::new(Code::Internal, "")) });
    problem.component::<problem::Body>();
    for route in routes.iter().chain([&problem]) {
        for (name, schema) in &route.components {
            schemas.insert(name.clone(), json!(schema));
        }
    }
    narrow(&mut schemas, limits);
    for route in routes {
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(route.path).or_default().insert(method, operation(route));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ciro-coordinator",
            "version": version,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "Every node serves all of it. Errors are problem documents (RFC 9457). \
                A request may carry X-Request-Id (at most 128 visible ASCII characters); every response names it. \
                A request may carry the X-Ciro-Session of an earlier response; its answer then is never older.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "headers": headers()},
    })
}

/// Adds what is only known at run time: the configured size of an inline input, and that
/// a deadline of an earlier year is always past.
fn narrow(schemas: &mut BTreeMap<String, Value>, limits: &Limits) {
    let Some(submission) = schemas.get_mut("Submission") else { return };
    submission["properties"]["payload"]["maxLength"] = json!(limits.door.inline_bytes.div_ceil(3) * 4);
    if limits.door.settlement.is_none() {
        let about = "Without a chain only none is available.";
        submission["properties"]["settlement"] = json!({"description": about, "enum": ["none", null]});
    }
    if limits.door.callbacks.is_none() {
        let about = "Callbacks are disabled: null, or left out.";
        submission["properties"]["callback_url"] = json!({"description": about, "type": "null"});
    }
    let year = text::time(clock::now())[..4].parse().unwrap_or(2_000);
    submission["properties"]["deadline"]["pattern"] = json!(years_from(year));
}

/// A pattern for times in `year` (of four digits) or later.
fn years_from(year: u16) -> String {
    let digits = format!("{year:04}");
    let mut choices = vec![digits.clone()];
    for (place, digit) in digits.char_indices().filter(|(_, digit)| *digit < '9') {
        let next = char::from(digit as u8 + 1);
        choices.push(format!("{}[{next}-9][0-9]{{{}}}", &digits[..place], 3 - place));
    }
    format!("^({})-", choices.join("|"))
}

/// Headers of every response.
fn headers() -> Value {
    let text = |about: &str| json!({"description": about, "required": true, "schema": {"type": "string"}});
    json!({
        "X-Ciro-Node": text("The node that answered."),
        "X-Ciro-Role": text("Its role: leader, follower, candidate or learner."),
        "X-Ciro-Term": text("Its Raft term."),
        "X-Ciro-Leader": text("The leader it knows; empty if none."),
        "X-Ciro-Applied-Index": text("Index of the last log entry that it has applied."),
        "X-Ciro-Staleness-Ms": text("Milliseconds since this node had all that a leader said is committed; empty if never."),
        "X-Ciro-Session": text("What the client has seen so far. Send it with the next request, to any node."),
        "X-Request-Id": text("The request's id, as in the logs of the nodes."),
    })
}

fn header_references() -> Value {
    let names: Vec<String> = headers().as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    names.into_iter().map(|name| (name.clone(), json!({"$ref": format!("#/components/headers/{name}")}))).collect()
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "tags": [tag(route)],
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let Some(body) = &route.body {
        operation["requestBody"] = request_body(body);
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '-', '.']).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(|word| word.trim_matches(['{', '}'])).collect();
    let name = if words.is_empty() { "dashboard".to_owned() } else { words.join("_") };
    format!("{}_{name}", route.method.as_str().to_ascii_lowercase())
}

/// The first segment of the path.
pub fn tag(route: &Route) -> &'static str {
    match route.path.split('/').nth(1) {
        None | Some("" | "openapi.json" | "docs") => "node",
        Some("status" | "health" | "metrics" | "events") => "node",
        Some(segment) => segment,
    }
}

fn parameters(route: &Route) -> Value {
    let path = route
        .path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": path_schema(route)}));
    let query = route
        .params
        .iter()
        .map(|param| json!({"name": param.name, "in": "query", "description": param.about, "schema": param.schema()}));
    let headers = route.headers.iter().map(|header| {
        let schema = json!({"type": "string", "pattern": header.pattern});
        json!({"name": header.name, "in": "header", "description": header.about, "schema": schema})
    });
    path.chain(query).chain(headers).collect()
}

fn path_schema(route: &Route) -> Value {
    match tag(route) {
        "jobs" => json!({"type": "string", "format": "uuid"}),
        "workers" | "cluster" => json!({"type": "string", "pattern": super::params::PEER_ID}),
        "blockchain" if route.path.starts_with("/blockchain/jobs/") => json!({"type": "string", "format": "uuid"}),
        "kafka" | "blockchain" => json!({"type": "string", "pattern": "^[1-9][0-9]{0,18}$"}),
        _ => json!({"type": "string", "minLength": 1}),
    }
}

fn request_body(body: &BodySpec) -> Value {
    let content: serde_json::Map<_, _> = body
        .media
        .iter()
        .zip(&body.schemas)
        .map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema})))
        .collect();
    json!({"required": body.required, "description": format!("At most {} bytes.", body.limit), "content": content})
}

fn responses(route: &Route) -> Value {
    let mut responses = serde_json::Map::new();
    for answer in &route.answers {
        responses.insert(answer.status.to_string(), response(answer));
    }
    let mut by_status: BTreeMap<u16, BTreeSet<Code>> = BTreeMap::new();
    for code in codes(route) {
        by_status.entry(code.status()).or_default().insert(code);
    }
    for (status, codes) in by_status {
        let about: Vec<_> = codes.iter().map(|code| format!("`{}`: {}.", code.as_str(), code.title())).collect();
        let problem = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
        let mut headers = header_references();
        if matches!(status, 429 | 503) {
            let schema = json!({"type": "integer", "minimum": 0});
            headers["Retry-After"] = json!({"description": "Seconds.", "schema": schema});
        }
        let entry = json!({
            "description": about.join(" "),
            "headers": headers,
            "content": {"application/problem+json": problem},
        });
        // A status that is also an answer (503 of /health) keeps the answer's description.
        responses.entry(status.to_string()).or_insert(entry);
    }
    Value::Object(responses)
}

fn response(answer: &Answer) -> Value {
    let mut headers = header_references();
    if answer.location {
        let schema = json!({"type": "string", "format": "uri-reference"});
        headers["Location"] = json!({"description": "Where it is.", "required": true, "schema": schema});
    }
    let content: serde_json::Map<_, _> =
        answer.content.iter().map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema}))).collect();
    let mut response = json!({"description": answer.about, "headers": headers});
    if !content.is_empty() {
        response["content"] = Value::Object(content);
    }
    response
}

/// Every problem that the route may answer with.
pub fn codes(route: &Route) -> BTreeSet<Code> {
    let mut codes: BTreeSet<_> = route.problems.iter().copied().collect();
    codes.extend([Code::UnknownParameter, Code::Internal, Code::InvalidHeader, Code::ForeignSession]);
    if route.session {
        codes.extend([Code::NotCaughtUp, Code::IndexAhead]);
    }
    if !route.params.is_empty() {
        codes.insert(Code::InvalidParameter);
    }
    if route.path.contains('{') {
        codes.insert(Code::InvalidId);
    }
    if route.body.is_some() {
        codes.extend([Code::InvalidJson, Code::UnreadableBody, Code::BodyTimeout, Code::BodyTooLarge]);
        codes.extend([Code::UnsupportedMediaType, Code::InvalidField, Code::MissingField, Code::UnknownField]);
        codes.extend([Code::UnavailableField, Code::Overloaded]);
    } else if route.method != warp::http::Method::GET {
        codes.extend([Code::UnexpectedBody, Code::UnreadableBody, Code::BodyTimeout]);
    }
    if route.method != warp::http::Method::GET {
        codes.insert(Code::CrossOrigin);
    }
    if codes.contains(&Code::NoLeader) {
        codes.extend([Code::Stopping, Code::Unavailable]);
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        document_of(&crate::api::routes(&Limits::default()), "1.2.3", &Limits::default())
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn earlier_years_do_not_match() {
        assert_eq!(years_from(2026), "^(2026|[3-9][0-9]{3}|2[1-9][0-9]{2}|20[3-9][0-9]{1}|202[7-9][0-9]{0})-");
        assert_eq!(years_from(9999), "^(9999)-");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 30, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("local");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn schemas_of_one_name_are_one_schema() {
        let mut seen: BTreeMap<String, Value> = BTreeMap::new();
        for route in crate::api::routes(&Limits::default()) {
            for (name, schema) in route.components {
                let schema = json!(schema);
                if let Some(other) = seen.insert(name.clone(), schema.clone()) {
                    assert_eq!(other, schema, "{name}");
                }
            }
        }
    }

    #[test]
    fn operations_are_complete() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
                let named = path.matches('{').count();
                let parameters = operation["parameters"].as_array().unwrap();
                assert_eq!(parameters.iter().filter(|parameter| parameter["in"] == "path").count(), named, "{path}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    assert!(status.parse::<u16>().is_ok());
                    assert!(response["headers"]["X-Ciro-Node"].is_object(), "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn every_route_of_the_contract_is_there() {
        let document = document();
        let routes = "GET /health,GET /health/live,GET /health/ready,GET /status,GET /metrics,GET /metrics/history,\
            POST /jobs,POST /jobs/batch,GET /jobs,GET /jobs/{id},DELETE /jobs/{id},GET /jobs/{id}/status,\
            GET /jobs/{id}/result,GET /jobs/{id}/events,GET /jobs/{id}/explain,POST /workers,GET /workers,\
            GET /workers/{id},DELETE /workers/{id},POST /workers/{id}/drain,POST /workers/{id}/resume,\
            GET /workers/{id}/health,GET /network/stats,GET /network/peers,GET /network/health,\
            GET /blockchain/status,GET /blockchain/transactions,GET /blockchain/metrics,GET /kafka/status,\
            GET /kafka/stats,GET /kafka/dead-letter-queue,POST /kafka/dead-letter-queue/{id}/replay,\
            DELETE /kafka/dead-letter-queue/{id},GET /kafka/dead-letter-queue/{id},POST /kafka/intake/seek,\
            POST /kafka/intake/reset,DELETE /kafka/cursor,GET /cluster,POST /cluster/members,\
            DELETE /cluster/members/{node_id},POST /cluster/transfer-leadership,GET /cluster/backup,GET /events,\
            GET /openapi.json,GET /docs,GET /";
        for route in routes.split(',') {
            let (method, path) = route.trim().split_once(' ').unwrap();
            let operation = &document["paths"][path][method.to_ascii_lowercase()];
            assert!(operation.is_object(), "{route}");
        }
    }
}
