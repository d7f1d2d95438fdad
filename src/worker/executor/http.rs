//! Posts the payload to a server of the operator's and returns its answer.
//!
//! The usual way to run AI inference: the model is loaded once, in a server
//! beside the worker. The URL is the operator's; nothing of the job is in it,
//! redirects are not followed, and no proxy is asked.
//!
//! Whether another attempt may do better is read from the status: 408, 425, 429
//! and 5xx are the server's trouble, other refusals are the job's. A server that
//! can not be reached makes the worker rest.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::oneshot;

use super::process::{asked_to_stop, stopped};
use super::{Ended, Failure, Work};
use crate::worker::desk::Cause;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a refusal that are reported.
const REFUSAL_MAX: usize = 2 * 1024;

/// A server that answers jobs of one type.
#[derive(Clone, Debug)]
pub struct Server {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

impl Server {
    /// # Errors
    ///
    /// The field that is wrong, and what would be right.
    pub fn new(
        url: &str,
        content_type: &str,
        headers: &BTreeMap<String, String>,
    ) -> Result<Self, (&'static str, String)> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let url = parsed.ok_or_else(|| ("url", format!("{url:?} is no http:// or https:// URL")))?;
        let client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("ciro-worker/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ("url", format!("no client can be made: {error}")))?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let name = name.parse::<HeaderName>().map_err(|_| ("headers", format!("{name:?} is no header")))?;
            let mut value = value
                .parse::<HeaderValue>()
                .map_err(|_| ("headers", format!("the value of {name} can not be sent")))?;
            value.set_sensitive(true);
            all.insert(name, value);
        }
        let kind = content_type.parse().map_err(|_| ("content_type", format!("{content_type:?} can not be sent")))?;
        all.insert(CONTENT_TYPE, kind);
        Ok(Self { client, url, headers: all })
    }
}

/// Asks the server, until it has answered, the time is up, or the attempt must stop: then the connection is closed.
pub(super) async fn run(server: &Server, work: &Work, output_max: u64, stop: oneshot::Receiver<Cause>) -> Ended {
    tokio::select! {
        answer = ask(server, work, output_max) => match answer {
            Ok(bytes) => Ended::Output { bytes, exit_code: 0 },
            Err(failure) => Ended::Failed(failure),
        },
        () = tokio::time::sleep(work.timeout) => {
            Ended::Failed(Failure::retryable("timeout", format!("after {} s", work.timeout.as_secs())))
        }
        cause = asked_to_stop(stop) => stopped(cause),
    }
}

async fn ask(server: &Server, work: &Work, output_max: u64) -> Result<Bytes, Failure> {
    let (job, attempt) = work.key;
    let request = server
        .client
        .post(server.url.clone())
        .headers(server.headers.clone())
        .header("X-Ciro-Job-Id", job.to_string())
        .header("X-Ciro-Attempt", attempt)
        .body(work.input.clone());
    let response = request.send().await.map_err(|error| lost(&error))?;
    let status = response.status();
    if !status.is_success() {
        return Err(refused(status, response).await);
    }
    let limit = usize::try_from(output_max).unwrap_or(usize::MAX);
    let too_large = || Failure::permanent("output_too_large", format!("more than {output_max} bytes"));
    if response.content_length().is_some_and(|length| length > output_max) {
        return Err(too_large());
    }
    read(response, limit).await?.ok_or_else(too_large)
}

/// The body. `None` if it is longer than `limit`.
async fn read(mut response: Response, limit: usize) -> Result<Option<Bytes>, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}

async fn refused(status: StatusCode, mut response: Response) -> Failure {
    let mut body = Vec::new();
    while body.len() < REFUSAL_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(REFUSAL_MAX);
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    let retryable = status.is_server_error() || passing.contains(&status);
    let detail = format!("the server answered {}\n{}", status.as_u16(), String::from_utf8_lossy(&body));
    Failure { retryable, ..Failure::permanent("http_status", detail.trim_end()) }
}

/// No answer, or a part of one. The URL is not told: it may hold secrets.
fn lost(error: &reqwest::Error) -> Failure {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let detail = if reason.downcast_ref::<reqwest::Error>().is_some() {
        "the connection was lost".to_owned()
    } else {
        reason.to_string()
    };
    if error.is_connect() { Failure::ill("http_unreachable", detail) } else { Failure::retryable("http_lost", detail) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clock;
    use crate::domain::{Digest, JobId};

    const OUTPUT_MAX: u64 = 1_000;

    fn work(timeout: Duration) -> Work {
        let input = Bytes::from_static(b"{\"prompt\":\"why\"}");
        Work {
            key: (JobId([7; 16]), 3),
            kind: "ai_inference".to_owned(),
            input_sha256: Some(Digest::of(&input)),
            input,
            input_uri: None,
            timeout,
        }
    }

    fn server(url: &str) -> Server {
        let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer secret".to_owned())]);
        Server::new(url, "application/json", &headers).unwrap()
    }

    async fn listen() -> (TcpListener, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/completions?n=1", listener.local_addr().unwrap());
        (listener, server(&url))
    }

    /// Takes one request, to the end of its body.
    async fn take(listener: &TcpListener) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\"why\"}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request is cut off");
        }
        (stream, String::from_utf8(request).unwrap())
    }

    /// What becomes of an attempt that is answered `answer`, and the request it made.
    async fn answered(answer: String) -> (Ended, String) {
        let (listener, server) = listen().await;
        let (_stop, stopped) = oneshot::channel();
        let work = work(Duration::from_secs(20));
        let (ended, request) = tokio::join!(run(&server, &work, OUTPUT_MAX, stopped), async {
            let (mut stream, request) = take(&listener).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            request
        });
        (ended, request)
    }

    fn whole(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    async fn failure(answer: String) -> Failure {
        match answered(answer).await.0 {
            Ended::Failed(failure) => failure,
            other => panic!("no failure: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_payload_is_posted_and_the_answer_is_the_result() {
        let (ended, request) = answered(whole("200 OK", "because")).await;
        assert_eq!(ended, Ended::Output { bytes: Bytes::from_static(b"because"), exit_code: 0 });
        let lower = request.to_lowercase();
        assert!(request.starts_with("POST /v1/completions?n=1 HTTP/1.1\r\n"), "{request}");
        assert!(lower.contains("content-type: application/json\r\n"), "{request}");
        assert!(lower.contains("authorization: bearer secret\r\n"), "{request}");
        assert!(lower.contains(&format!("x-ciro-job-id: {}\r\nx-ciro-attempt: 3\r\n", JobId([7; 16]))), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_says_by_its_status_whether_another_attempt_may_do_better() {
        let cases = [
            ("400 Bad Request", false),
            ("404 Not Found", false),
            ("408 Request Timeout", true),
            ("429 Too Many Requests", true),
            ("500 Internal Server Error", true),
            ("503 Service Unavailable", true),
        ];
        for (status, retryable) in cases {
            let failed = failure(whole(status, "the reason")).await;
            assert_eq!((failed.code, failed.retryable, failed.ill), ("http_status", retryable, false), "{status}");
            assert_eq!(failed.detail, format!("the server answered {}\nthe reason", &status[..3]));
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
        let failed = failure(elsewhere.to_owned()).await;
        assert_eq!((failed.code, failed.retryable), ("http_status", false));
    }

    #[tokio::test]
    async fn a_long_answer_is_refused_whether_it_says_so_or_not() {
        let long = "x".repeat(1_001);
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{long}\r\n0\r\n\r\n");
        for answer in [whole("200 OK", &long), chunked] {
            let failed = failure(answer).await;
            assert_eq!((failed.code, failed.retryable), ("output_too_large", false));
        }
        let refusal = failure(whole("400 Bad Request", &"x".repeat(1 << 20))).await;
        assert!(refusal.detail.len() < REFUSAL_MAX + 100);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_answer() {
        let failed = failure("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned()).await;
        assert_eq!((failed.code, failed.retryable, failed.ill), ("http_lost", true, false));
        let failed = failure("this is no HTTP\r\n\r\n".to_owned()).await;
        assert_eq!((failed.code, failed.retryable), ("http_lost", true));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_makes_the_worker_rest() {
        let (listener, server) = listen().await;
        drop(listener);
        let (_stop, stopped) = oneshot::channel();
        let Ended::Failed(failed) = run(&server, &work(Duration::from_secs(20)), OUTPUT_MAX, stopped).await else {
            panic!("nobody answers")
        };
        assert_eq!((failed.code, failed.retryable, failed.ill), ("http_unreachable", true, true));
        assert!(!failed.detail.contains("http://"), "{}", failed.detail);
    }

    #[tokio::test]
    async fn a_stop_and_the_timeout_close_the_connection() {
        for cause in [Some(Cause::Cancelled), None] {
            let (listener, server) = listen().await;
            let (stop, stopped) = oneshot::channel();
            let work = work(if cause.is_some() { Duration::from_secs(60) } else { Duration::from_secs(1) });
            let start = clock::instant();
            let ended = tokio::join!(run(&server, &work, OUTPUT_MAX, stopped), async {
                let (mut stream, _) = take(&listener).await;
                let _kept = match cause {
                    Some(cause) => {
                        stop.send(cause).unwrap();
                        None
                    }
                    None => Some(stop),
                };
                // The end of the stream, or its reset.
                assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)), "nothing more is asked");
            });
            let Ended::Failed(failed) = ended.0 else { panic!("there was no answer") };
            assert_eq!(failed.code, if cause.is_some() { "cancelled" } else { "timeout" });
            assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
        }
    }

    #[test]
    fn what_can_not_be_asked_is_refused_by_its_field() {
        let field = |url: &str, kind: &str, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Server::new(url, kind, &headers).err().map(|(field, _)| field)
        };
        assert_eq!(field("http://127.0.0.1:1", "text/plain", &[("X-A", "b")]), None);
        for url in ["", "127.0.0.1:1", "ftp://127.0.0.1", "file:///etc/passwd"] {
            assert_eq!(field(url, "text/plain", &[]), Some("url"), "{url}");
        }
        assert_eq!(field("http://127.0.0.1", "text\nplain", &[]), Some("content_type"));
        assert_eq!(field("http://127.0.0.1", "text/plain", &[("a b", "c")]), Some("headers"));
        assert_eq!(field("http://127.0.0.1", "text/plain", &[("a", "c\r\nd: e")]), Some("headers"));
    }
}
