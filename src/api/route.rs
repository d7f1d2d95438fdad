//! Routes as data: what a route takes and answers, said once for the router
//! that checks it and the document that tells of it.

use std::sync::Arc;

use futures::future::BoxFuture;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};
use warp::http::Method;
use warp::reply::Response;

use super::Api;
use super::consistency;
use super::params::Param;
use super::problem::{Code, Problem};
use super::request::Request;

pub type Handler = Arc<dyn Fn(Api, Request) -> BoxFuture<'static, Result<Response, Problem>> + Send + Sync>;
pub type Components = Vec<(String, RefOr<Schema>)>;

/// One method of one path.
#[derive(Clone)]
pub struct Route {
    pub method: Method,
    /// `/jobs/{id}`: segments in braces are parameters.
    pub path: &'static str,
    /// Of the path.
    segments: Vec<Segment>,
    pub summary: &'static str,
    pub params: Vec<Param>,
    pub headers: Vec<Header>,
    pub body: Option<BodySpec>,
    /// Whether it reads replicated state, and takes the parameters that say how fresh.
    pub fresh: bool,
    /// Whether it shows or changes replicated state, and so waits for the client's session.
    pub session: bool,
    pub answers: Vec<Answer>,
    pub problems: Vec<Code>,
    pub components: Components,
    pub handler: Handler,
}

#[derive(Clone, Copy)]
enum Segment {
    Literal(&'static str),
    /// By its name.
    Parameter(&'static str),
}

impl Segment {
    fn of(text: &'static str) -> Self {
        let name = text.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        name.map_or(Self::Literal(text), Self::Parameter)
    }
}

/// A request header that the route looks at.
#[derive(Clone, Copy)]
pub struct Header {
    pub name: &'static str,
    pub pattern: &'static str,
    pub about: &'static str,
}

/// A body that the route takes.
#[derive(Clone)]
pub struct BodySpec {
    pub required: bool,
    /// Bytes.
    pub limit: usize,
    pub media: &'static [&'static str],
    /// JSON Schema by media type, same order.
    pub schemas: Vec<serde_json::Value>,
}

/// An answer that went well.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub about: &'static str,
    /// Media type and JSON Schema.
    pub content: Vec<(&'static str, serde_json::Value)>,
    pub location: bool,
}

impl Route {
    pub fn new<F, R>(method: Method, path: &'static str, summary: &'static str, handler: F) -> Self
    where
        F: Fn(Api, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let session = method != Method::GET;
        Self {
            method,
            path,
            segments: path.split('/').map(Segment::of).collect(),
            summary,
            params: vec![],
            headers: vec![],
            body: None,
            fresh: false,
            session,
            answers: vec![],
            problems: vec![],
            components: vec![],
            handler: Arc::new(move |api, request| Box::pin(handler(api, request))),
        }
    }

    pub fn get<F, R>(path: &'static str, summary: &'static str, handler: F) -> Self
    where
        F: Fn(Api, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        Self::new(Method::GET, path, summary, handler)
    }

    pub fn post<F, R>(path: &'static str, summary: &'static str, handler: F) -> Self
    where
        F: Fn(Api, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        Self::new(Method::POST, path, summary, handler)
    }

    pub fn delete<F, R>(path: &'static str, summary: &'static str, handler: F) -> Self
    where
        F: Fn(Api, Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        Self::new(Method::DELETE, path, summary, handler)
    }

    #[must_use]
    pub fn param(mut self, param: Param) -> Self {
        self.params.push(param);
        self
    }

    #[must_use]
    pub fn params(mut self, params: impl IntoIterator<Item = Param>) -> Self {
        self.params.extend(params);
        self
    }

    #[must_use]
    pub fn header(mut self, header: Header) -> Self {
        self.headers.push(header);
        self
    }

    /// Reads replicated state: the router waits until it is as fresh as the client asks.
    #[must_use]
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self.session = true;
        self.params.extend(consistency::params());
        self.problems(&[Code::NoLeader, Code::TooStale, Code::LeaseReadsOff])
    }

    /// Shows replicated state, and waits for what the client has seen, but takes no word on freshness.
    #[must_use]
    pub fn follows_session(mut self) -> Self {
        self.session = true;
        self
    }

    /// Goes through the log.
    #[must_use]
    pub fn write(self) -> Self {
        self.problems(&[Code::NoLeader, Code::OutcomeUnknown, Code::Overloaded, Code::InvalidCommand, Code::Conflict])
    }

    /// Takes one JSON object.
    #[must_use]
    pub fn takes<T: ToSchema>(mut self, required: bool, limit: usize) -> Self {
        let schema = self.component::<T>();
        self.body = Some(BodySpec { required, limit, media: &["application/json"], schemas: vec![schema] });
        self
    }

    #[must_use]
    pub fn takes_raw(mut self, limit: usize, media: &'static [&'static str], schemas: Vec<serde_json::Value>) -> Self {
        self.body = Some(BodySpec { required: true, limit, media, schemas });
        self
    }

    #[must_use]
    pub fn answers<T: ToSchema>(mut self, status: u16, about: &'static str) -> Self {
        let schema = self.component::<T>();
        self.answers_raw(status, about, vec![("application/json", schema)])
    }

    #[must_use]
    pub fn answers_raw(
        mut self,
        status: u16,
        about: &'static str,
        content: Vec<(&'static str, serde_json::Value)>,
    ) -> Self {
        self.answers.push(Answer { status, about, content, location: false });
        self
    }

    /// The answers so far name the resource in `Location`.
    #[must_use]
    pub fn located(mut self) -> Self {
        for answer in &mut self.answers {
            answer.location = true;
        }
        self
    }

    #[must_use]
    pub fn problems(mut self, codes: &[Code]) -> Self {
        self.problems.extend_from_slice(codes);
        self
    }

    /// Registers the schema of `T`, and says how to refer to it.
    pub fn component<T: ToSchema>(&mut self) -> serde_json::Value {
        self.components.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.components);
        serde_json::json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    /// Whether a path of these segments may be of this route.
    pub fn covers(&self, path: &[&str]) -> bool {
        let fits = |(ours, theirs): (&Segment, &&str)| match ours {
            Segment::Literal(text) => text == theirs,
            Segment::Parameter(_) => !theirs.is_empty(),
        };
        self.segments.len() == path.len() && self.segments.iter().zip(path).all(fits)
    }

    /// The names of the parameters of a path that this route covers, with their values. `None` if one is not UTF-8.
    pub fn values(&self, path: &[&str]) -> Option<Vec<(&'static str, String)>> {
        let named = self.segments.iter().zip(path).filter_map(|(ours, theirs)| match ours {
            Segment::Literal(_) => None,
            Segment::Parameter(name) => Some((*name, theirs)),
        });
        named.map(|(name, text)| Some((name, decoded(text)?))).collect()
    }

    pub fn literals(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count()
    }
}

/// Undoes percent encoding; `None` if what comes out is not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| tail.get(..2).and_then(|digits| hex::decode(digits).ok())).flatten();
        rest = if escaped.is_some() { &tail[2..] } else { tail };
        bytes.push(escaped.map_or(byte, |escaped| escaped[0]));
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(decoded("a%2Db").as_deref(), Some("a-b"));
        assert_eq!(decoded("100%").as_deref(), Some("100%"));
        assert_eq!(decoded("%zz%4").as_deref(), Some("%zz%4"));
        assert_eq!(decoded("%ff"), None);
    }
}
