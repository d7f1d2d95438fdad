//! One way in and one way out for every request.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Body as _;
use tracing::Instrument;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use warp::reply::Response;

use super::problem::{Code, Problem};
use super::request::{Request, Room, Unread, request_id};
use super::route::Route;
use super::{Api, Context, consistency, params, respond, session};
use crate::clock;
use crate::consensus::Headline;
use crate::domain::NodeId;
use crate::tasks::Tasks;
use crate::telemetry;

/// The routes and what their handlers need.
pub struct Router {
    api: Api,
    routes: Vec<Route>,
    room: Room,
    /// The node that led when last asked, as text: every answer names it.
    leader: Mutex<Option<(NodeId, HeaderValue)>>,
}

/// What came in, as warp took it apart.
pub struct Inbound {
    pub method: Method,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Unread,
    /// Of the state just before the handler looked at it, in milliseconds.
    pub staleness: Option<u64>,
}

/// What a path and a method come to.
enum Found<'a> {
    Route(&'a Route, Vec<(&'static str, String)>),
    /// The path exists, for these methods; and the pattern it is known by.
    Methods(&'static str, String),
    Nothing,
}

impl Router {
    pub fn new(context: Context, tasks: Tasks) -> Self {
        let routes = super::routes(&context.limits);
        let room = Room::of(&context.limits);
        Self { api: Api::new(context, tasks, &routes), routes, room, leader: Mutex::default() }
    }

    /// Answers a request, whatever it is.
    pub async fn answer(&self, mut inbound: Inbound) -> Response {
        let started = clock::instant();
        let id = request_id(&inbound.headers);
        let (method, head) = (inbound.method.clone(), inbound.method == Method::HEAD);
        // An error's level: the id must be in the log however little is logged.
        let span = tracing::error_span!("http", request_id = %id, %method, path = %inbound.path);
        telemetry::request::scope(&id, async {
            let (route, result) = self.dispatch(&mut inbound, &id).await;
            // A session that names what does not exist is not given back.
            let seen = match &result {
                Err(problem) if problem.code == Code::IndexAhead => None,
                _ => session::of(&inbound.headers).ok().flatten(),
            };
            let mut response = result.unwrap_or_else(|problem| problem.into_response(&id));
            inbound.body.drain(&inbound.headers).await;
            self.stamp(response.headers_mut(), &id, seen, inbound.staleness);
            let (status, took) = (response.status().as_u16(), started.elapsed());
            telemetry::metrics::http_served(method.as_str(), route, status, took);
            tracing::debug!(route, status, took_us = took.as_micros(), "served");
            if head { without_body(response) } else { response }
        })
        .instrument(span)
        .await
    }

    async fn dispatch(&self, inbound: &mut Inbound, id: &str) -> (&'static str, Result<Response, Problem>) {
        match find(&self.routes, &inbound.method, &inbound.path) {
            Found::Route(route, path) => (route.path, self.run(route, path, inbound, id).await),
            Found::Methods(pattern, allow) if inbound.method == Method::OPTIONS => (pattern, Ok(options(&allow))),
            Found::Methods(pattern, allow) => {
                let detail = format!("{} is not for {}", inbound.path, inbound.method);
                let problem = Problem::new(Code::MethodNotAllowed, detail);
                (pattern, Err(Problem { allow: Some(allow), ..problem }))
            }
            Found::Nothing => {
                let shown: String = inbound.path.chars().take(200).collect();
                ("unknown", Err(Problem::new(Code::UnknownRoute, format!("{shown} is not a route of this node"))))
            }
        }
    }

    async fn run(
        &self,
        route: &Route,
        path: Vec<(&'static str, String)>,
        inbound: &mut Inbound,
        id: &str,
    ) -> Result<Response, Problem> {
        if route.method != Method::GET {
            same_origin(&inbound.headers)?;
        }
        let seen = session::of(&inbound.headers)?;
        let query = params::check(&route.params, std::mem::take(&mut inbound.query))?;
        let limit = self.api.limits().body_timeout;
        let body = match &route.body {
            Some(spec) => inbound.body.read(spec, &inbound.headers, limit).await?,
            None => {
                if route.method != Method::GET {
                    inbound.body.refuse(limit).await?;
                }
                bytes::Bytes::new()
            }
        };
        let request = Request { id: id.to_owned(), path, query, headers: inbound.headers.clone(), body };
        if let Some(seen) = seen {
            session::follow(&self.api, seen, route.session).await?;
        }
        if route.fresh {
            consistency::ensure(&self.api, &request).await?;
        }
        inbound.staleness = self.api.client().headline().staleness_ms;
        (route.handler)(self.api.clone(), request).await
    }

    /// What was read for the answer was read before this: the state can only be newer now, so a session covers it,
    /// but of its staleness the greater one is told.
    fn stamp(&self, headers: &mut HeaderMap, id: &str, seen: Option<session::Token>, before: Option<u64>) {
        let client = self.api.client();
        let here = client.read(|state| session::Token { history: state.history(), index: state.applied() });
        let mut headline = client.headline();
        headline.staleness_ms = headline.staleness_ms.map(|now| now.max(before.unwrap_or(0)));
        let session = (session::HEADER, session::next(here, seen).to_string());
        for (name, value) in node_headers(&headline, here.index).into_iter().chain([session]) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers.insert("x-ciro-leader", self.named(headline.leader));
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert("x-request-id", id);
        }
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
}

impl Router {
    /// A leader as text; empty if there is none. Base 58 takes as long as much of the rest of an answer.
    fn named(&self, leader: Option<NodeId>) -> HeaderValue {
        let Some(leader) = leader else { return HeaderValue::from_static("") };
        let mut known = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_ref().filter(|(node, _)| *node == leader) {
            Some((_, text)) => text.clone(),
            None => {
                let text = HeaderValue::from_str(&leader.to_string()).unwrap_or(HeaderValue::from_static(""));
                *known = Some((leader, text.clone()));
                text
            }
        }
    }
}

/// Refuses writes that a browser sends for another site's page. Programs send no `Origin`.
///
/// A site can make its own name resolve to this node, and then its pages have the node's origin.
/// So a page must have been reached by a name that nobody can point elsewhere.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let of = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if of.is_some() && of == host && host.is_some_and(is_fixed) {
        return Ok(());
    }
    let problem = Problem::new(Code::CrossOrigin, "the request's Origin is not this node by address");
    Err(problem.field("Origin"))
}

/// Whether a host, with or without a port, is an address or `localhost`.
fn is_fixed(host: &str) -> bool {
    let Ok(authority) = host.parse::<warp::http::uri::Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

/// Who answered, and from how fresh a state. Unknown values are empty.
fn node_headers(status: &Headline, applied: u64) -> [(&'static str, String); 5] {
    [
        ("x-ciro-node", status.node.to_string()),
        ("x-ciro-role", status.role.as_str().to_owned()),
        ("x-ciro-term", status.term.to_string()),
        ("x-ciro-applied-index", applied.to_string()),
        ("x-ciro-staleness-ms", status.staleness_ms.map(|staleness| staleness.to_string()).unwrap_or_default()),
    ]
}

/// The route of the best-matching path: more literal segments win, so `/jobs/batch` is not a job's id.
fn find<'a>(routes: &'a [Route], method: &Method, path: &str) -> Found<'a> {
    let path: Vec<&str> = path.split('/').collect();
    let covering = || routes.iter().filter(|route| route.covers(&path));
    let best = covering().max_by_key(|route| route.literals());
    let Some((pattern, values)) = best.and_then(|route| Some((route.path, route.values(&path)?))) else {
        return Found::Nothing;
    };
    let wanted = if method == Method::HEAD { &Method::GET } else { method };
    match covering().find(|route| route.path == pattern && route.method == wanted) {
        Some(route) => Found::Route(route, values),
        None => Found::Methods(pattern, allow(routes, pattern)),
    }
}

fn allow(routes: &[Route], pattern: &str) -> String {
    let mut methods: Vec<_> =
        routes.iter().filter(|route| route.path == pattern).map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

fn options(allow: &str) -> Response {
    let mut response = respond::empty();
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// The answer to HEAD: as for GET, with its length, without the body.
fn without_body(mut response: Response) -> Response {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response.map(|_| warp::reply::Response::default().into_body())
}

/// The router as the one filter that warp serves.
pub fn filter(router: Arc<Router>) -> BoxedFilter<(Response,)> {
    warp::method()
        .and(warp::path::full())
        .and(warp::query::<Vec<(String, String)>>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path: warp::path::FullPath, query, headers, body| {
            let router = Arc::clone(&router);
            let body = Unread::new(body, router.room.clone());
            let inbound = Inbound { method, path: path.as_str().to_owned(), query, headers, body, staleness: None };
            async move { router.answer(inbound).await }
        })
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Limits;

    fn found(method: &str, path: &str) -> String {
        let routes = crate::api::routes(&Limits::default());
        match find(&routes, &method.parse().unwrap(), path) {
            Found::Route(route, values) => format!("{} {} {values:?}", route.method, route.path),
            Found::Methods(pattern, allow) => format!("405 {pattern}: {allow}"),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn paths_and_methods_find_their_route() {
        let cases = [
            ("GET", "/jobs", "GET /jobs []"),
            ("HEAD", "/jobs", "GET /jobs []"),
            ("POST", "/jobs/batch", "POST /jobs/batch []"),
            ("GET", "/jobs/batch", "405 /jobs/batch: POST, OPTIONS"),
            ("GET", "/jobs/x", "GET /jobs/{id} [(\"id\", \"x\")]"),
            ("GET", "/jobs/x/explain", "GET /jobs/{id}/explain [(\"id\", \"x\")]"),
            ("PATCH", "/jobs/x", "405 /jobs/{id}: DELETE, GET, HEAD, OPTIONS"),
            ("OPTIONS", "/", "405 /: GET, HEAD, OPTIONS"),
            ("GET", "/", "GET / []"),
            ("GET", "/jobs/", "404"),
            ("GET", "//jobs", "404"),
            ("GET", "/jobs/x/y", "404"),
            ("GET", "/nothing", "404"),
            ("OPTIONS", "*", "404"),
        ];
        for (method, path, expected) in cases {
            assert_eq!(found(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_page_may_write_only_to_the_address_it_came_from() {
        let asked = |origin: &str, host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers.insert(header::HOST, host.parse().unwrap());
            same_origin(&headers).is_ok()
        };
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "10.0.0.7"] {
            assert!(asked(&format!("http://{host}"), host), "{host}");
        }
        assert!(!asked("http://127.0.0.1:3000", "127.0.0.1:8080"), "another port is another site");
        assert!(!asked("null", "127.0.0.1:8080"));
        for host in ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example:8080", "[x]"] {
            assert!(!asked(&format!("http://{host}"), host), "{host} may be pointed here by its owner");
        }
        assert!(same_origin(&HeaderMap::new()).is_ok(), "a program");
    }

    #[test]
    fn no_route_is_declared_twice() {
        let routes = crate::api::routes(&Limits::default());
        for (index, route) in routes.iter().enumerate() {
            let twins = routes[..index].iter().filter(|other| other.path == route.path && other.method == route.method);
            assert_eq!(twins.count(), 0, "{} {}", route.method, route.path);
        }
    }
}
