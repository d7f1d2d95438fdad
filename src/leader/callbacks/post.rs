//! One try: a POST to where a client wants it.
//!
//! No redirect is followed, no proxy asked, no cookie kept. Addresses are held to
//! [`crate::egress`]. Of the answer the status counts; of its body a little is
//! read, so that the connection can serve again, and the rest is not.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url, header};

use super::body::{self, Key};
use super::plan::Answer;
use crate::clock;
use crate::domain::callback::Notice;
use crate::egress::{self, Resolver};
use crate::leader::event_id;

/// For a connection, and for all of a try.
const CONNECT: Duration = Duration::from_secs(5);
const TRY: Duration = Duration::from_secs(10);

/// How long, and how much of, an answer's body is read.
const DRAIN: Duration = Duration::from_millis(250);
const DRAIN_MAX: usize = 4 << 10;

/// Connections kept for a receiver's next notice, and how long.
const IDLE_MAX: usize = 4;
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
}

/// Posts notices. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callbacks {
    pub(super) settings: Arc<Settings>,
    http: Client,
}

impl Callbacks {
    /// # Errors
    ///
    /// The HTTP client cannot be made.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .user_agent(concat!("ciro-coordinator/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE)
            .connect_timeout(CONNECT)
            .timeout(TRY)
            .dns_resolver(Arc::new(Resolver::new(settings.allow_private)))
            .build()?;
        Ok(Self { settings: Arc::new(settings), http })
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
        let mut request = self
            .http
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
        status => (Answer::Refused { code: format!("http_{}", status.as_u16()) }, said),
    }
}
