//! Inputs that a web server has.
//!
//! The resolver is ours: it gives the client no address that it must not use,
//! so what was judged is what is connected to. Addresses in the URL itself are
//! judged before. Redirects are followed by us, a few, each judged like the
//! first, from https never back to http. No proxy, no cookie, no password.

use std::sync::Arc;

use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, header};

use super::{Policy, Sink, forbidden, not_found, refused, unreachable};
use crate::egress::{self, Resolver, innermost, is_not_public};
use crate::worker::executor::Failure;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 4;

pub fn client(policy: &Policy) -> ClientBuilder {
    egress::trusting(Client::builder(), &policy.authorities)
        .user_agent(concat!("ciro-worker/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .connect_timeout(policy.connect)
        .dns_resolver(Arc::new(Resolver::new(policy.allow_private)))
}

pub async fn read(policy: &Policy, client: &Client, url: Url, sink: &mut Sink) -> Result<(), Failure> {
    let mut response = follow(policy, client, url).await?;
    if let Some(length) = response.content_length() {
        sink.expect("the server's answer", length)?;
    }
    loop {
        let chunk = tokio::time::timeout(policy.idle, response.chunk()).await;
        match chunk.map_err(|_| unreachable(format!("nothing came for {} s", policy.idle.as_secs_f32())))? {
            Ok(Some(bytes)) => sink.write(&bytes).await?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(unreachable(format!("the answer broke off: {}", innermost(&error)))),
        }
    }
}

/// The first answer that is no redirect.
async fn follow(policy: &Policy, client: &Client, mut url: Url) -> Result<Response, Failure> {
    for _ in 0..=REDIRECTS_MAX {
        policy.allows(&url)?;
        check_host(policy, &url)?;
        let response = send(policy, client, &url).await?;
        if !response.status().is_redirection() {
            return judge(response);
        }
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok());
        let next = next.ok_or_else(|| refused(format!("{} without a place to go", response.status())))?;
        match (url.scheme(), next.scheme()) {
            ("http", "http" | "https") | ("https", "https") => url = next,
            (from, to) => return Err(forbidden(format!("a redirect leads from {from} to {to}"))),
        }
    }
    Err(refused(format!("more than {REDIRECTS_MAX} redirects")))
}

async fn send(policy: &Policy, client: &Client, url: &Url) -> Result<Response, Failure> {
    let limit = policy.connect + policy.idle;
    let sent = tokio::time::timeout(limit, client.get(url.clone()).send()).await;
    let sent = sent.map_err(|_| unreachable(format!("no answer within {} s", limit.as_secs_f32())))?;
    sent.map_err(|error| match is_not_public(&error) {
        true => not_public(),
        false if error.is_timeout() => unreachable("no connection in time"),
        false => unreachable(innermost(&error)),
    })
}

/// Judges an address in place of a name: nobody resolves it.
fn check_host(policy: &Policy, url: &Url) -> Result<(), Failure> {
    url.host_str().ok_or_else(|| refused("the URI names no host"))?;
    if egress::refuses(url, policy.allow_private) { Err(not_public()) } else { Ok(()) }
}

fn not_public() -> Failure {
    forbidden("this worker fetches nothing from loopback, link-local or private addresses")
}

fn judge(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    let said = || format!("the server answered {status}");
    match status {
        StatusCode::OK => Ok(response),
        StatusCode::NOT_FOUND | StatusCode::GONE => Err(not_found(said())),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => Err(unreachable(said())),
        status if status.is_server_error() => Err(unreachable(said())),
        _ => Err(refused(said())),
    }
}
