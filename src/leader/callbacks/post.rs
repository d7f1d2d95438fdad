//! One try: a POST to where a client wants it.
//!
//! No redirect is followed, no proxy asked, no cookie kept. Addresses are held to
//! [`crate::egress`]. Of the answer the status counts; of its body a little is
//! read, so that the connection can serve again, and the rest is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode, Url, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::body::{self, Key};
use super::plan::Answer;
use crate::clock;
use crate::domain::Timestamp;
use crate::domain::callback::Notice;
use crate::egress::{self, Authority, Resolver};
use crate::leader::event_id;

/// For a connection, and for all of a try.
const CONNECT: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_secs(10);

/// How long, and how much of, an answer's body is read.
const DRAIN: Duration = Duration::from_millis(250);
const DRAIN_MAX: usize = 4 << 10;

/// Receivers whose connections are kept for their next notices, how many of each, and how long. Strangers name as
/// many receivers as they like, and each connection is a file.
const KEPT_MAX: usize = 32;
const IDLE_MAX: usize = 8;
const IDLE: Duration = Duration::from_secs(10);

/// What an operator says about callbacks.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names the cluster in event ids.
    pub network: String,
    /// Post to loopback, link-local and private addresses, too.
    pub allow_private: bool,
    /// A notice that is older, and was tried in vain, is given up.
    pub max_age: Duration,
    /// `None`: bodies are not signed.
    pub key: Option<Key>,
    /// Trusted beside the well-known ones.
    pub authorities: Vec<Authority>,
}

/// Posts notices. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callbacks {
    pub(super) settings: Arc<Settings>,
    /// Keeps no connection.
    once: Client,
    /// Keeps those of `kept`.
    again: Client,
    kept: Arc<Kept>,
}

/// Receivers whose connections may be open, and until when.
#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<Box<str>, Instant>>);

impl Kept {
    /// Whether a connection to a receiver may be kept after a try that begins `now`.
    fn admits(&self, receiver: &str, now: Instant) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now + TRY + IDLE;
        if let Some(known) = kept.get_mut(receiver) {
            *known = until;
            return true;
        }
        kept.retain(|_, until| *until > now);
        let room = kept.len() < KEPT_MAX;
        if room {
            kept.insert(receiver.into(), until);
        }
        room
    }
}

impl Callbacks {
    /// # Errors
    ///
    /// The HTTP client cannot be made.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let resolver = Arc::new(Resolver::new(settings.allow_private));
        let client = |kept: usize| {
            egress::trusting(Client::builder(), &settings.authorities)
                .user_agent(concat!("ciro-coordinator/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .referer(false)
                .pool_max_idle_per_host(kept)
                .pool_idle_timeout(IDLE)
                .connect_timeout(CONNECT)
                .timeout(TRY)
                .dns_resolver(Arc::clone(&resolver))
                .build()
        };
        let (once, again) = (client(0)?, client(IDLE_MAX)?);
        Ok(Self { settings: Arc::new(settings), once, again, kept: Arc::default() })
    }

    /// Tells a receiver once. Also says, for people, why it was in vain.
    pub(super) async fn post(&self, notice: &Notice) -> (Answer, String) {
        let Ok(url) = Url::parse(&notice.url) else {
            return (Answer::Never { code: "invalid_url" }, "not a URL".to_owned());
        };
        if egress::refuses(&url, self.settings.allow_private) {
            return forbidden();
        }
        let sent = tokio::time::timeout(TRY, self.send(url, notice)).await;
        match sent {
            Ok(Ok(response)) => judge(response).await,
            Ok(Err(error)) if egress::is_not_public(&error) => forbidden(),
            Ok(Err(error)) if !error.is_timeout() => {
                (Answer::Silent { code: "unreachable" }, egress::innermost(&error.without_url()))
            }
            _ => (Answer::Silent { code: "timeout" }, format!("no answer within {} s", TRY.as_secs())),
        }
    }

    async fn send(&self, url: Url, notice: &Notice) -> Result<Response, reqwest::Error> {
        let body = body::document(&self.settings.network, notice);
        let now = body::seconds(clock::now());
        let keep = self.kept.admits(notice.receiver(), clock::instant());
        let http = if keep { &self.again } else { &self.once };
        let mut request = http
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", event_id(&self.settings.network, notice.event))
            .header("X-Ciro-Event", body::kind(notice))
            .header("X-Ciro-Timestamp", now);
        if let Some(key) = &self.settings.key {
            request = request.header("X-Ciro-Signature", key.sign(now, &body));
        }
        request.body(body).send().await
    }
}

fn forbidden() -> (Answer, String) {
    let why = "nothing is posted to loopback, link-local or private addresses";
    (Answer::Never { code: "forbidden_address" }, why.to_owned())
}

async fn judge(mut response: Response) -> (Answer, String) {
    let status = response.status();
    let after = retry_after(&response);
    let drained = async {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > DRAIN_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    let said = format!("the receiver answered {status}");
    match status {
        status if status.is_success() => (Answer::Taken, said),
        StatusCode::GONE => (Answer::Never { code: "http_410" }, said),
        status => (Answer::Refused { code: format!("http_{}", status.as_u16()), after }, said),
    }
}

/// When a receiver that is overwhelmed wants to be asked again.
fn retry_after(response: &Response) -> Option<Duration> {
    let busy = matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let said = response.headers().get(header::RETRY_AFTER).filter(|_| busy)?.to_str().ok()?;
    parse_after(said, clock::now())
}

/// Seconds, or a date as HTTP has it.
fn parse_after(said: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = said.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = OffsetDateTime::parse(said.trim(), &Rfc2822).ok()?;
    let at = u64::try_from(at.unix_timestamp()).ok()?.checked_mul(1_000)?;
    Some(Duration::from_millis(at.saturating_sub(now.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_in_seconds_or_by_date_when_to_come_back() {
        // 1994-11-06T08:49:37Z.
        let now = Timestamp(784_111_777_000);
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(parse_after(" 120 ", now), secs(120));
        assert_eq!(parse_after("Sun, 06 Nov 1994 08:50:37 GMT", now), secs(60));
        assert_eq!(parse_after("Sun, 06 Nov 1994 08:00:00 GMT", now), secs(0), "it is past");
        for unfit in ["", "soon", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(parse_after(unfit, now), None, "{unfit}");
        }
    }

    #[test]
    fn connections_are_kept_for_few_receivers_at_a_time() {
        let (kept, now) = (Kept::default(), clock::instant());
        assert!((0..KEPT_MAX).all(|n| kept.admits(&n.to_string(), now)));
        assert!(kept.admits("0", now + IDLE) && !kept.admits("new", now + IDLE));
        let later = now + TRY + IDLE;
        assert!(kept.admits("new", later), "by then the connections of most have ended");
        assert_eq!(kept.0.lock().unwrap().len(), 2);
    }
}
