//! Where a stranger may make this machine connect to.
//!
//! Clients name URLs that a worker fetches from and the leader posts to. A URL is
//! a stranger's wish, so addresses that only a machine in the operator's network
//! reaches are refused unless the operator allows them. The resolver is ours: it
//! gives an HTTP client no address that it must not use, so what was judged is
//! what is connected to. An address in place of a name is resolved by nobody and
//! judged by [`refuses`] before.
//!
//! Names are looked up by the system, on threads of the runtime's pool that
//! storage needs, too. Few are looked up at a time, and a lookup that nobody waits
//! for any more counts until it ends.

mod address;
mod authority;
#[cfg(test)]
pub(crate) mod https;

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{ClientBuilder, Url};
use tokio::sync::Semaphore;

pub use address::is_public;
pub use authority::{Authority, Error as AuthorityError, read as read_authorities};

use crate::tasks::Tasks;

/// Names looked up at a time. Further ones wait.
const LOOKUPS_MAX: usize = 32;

/// A name has no address that we may use.
#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct NotPublic;

/// Resolves names to what may be connected to.
pub struct Resolver {
    allow_private: bool,
    lookups: Arc<Semaphore>,
    tasks: Tasks,
}

impl Resolver {
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)), tasks: Tasks::new() }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allow_private, lookups, tasks) = (self.allow_private, Arc::clone(&self.lookups), self.tasks.clone());
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            let lookup = move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                drop(permit);
                found
            };
            let found = tasks.spawn_blocking(lookup).await??;
            let usable: Vec<SocketAddr> = found.filter(|found| allow_private || is_public(found.ip())).collect();
            if usable.is_empty() {
                return Err(Box::new(NotPublic) as Box<dyn StdError + Send + Sync>);
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// Takes servers' certificates of these authorities, too.
pub fn trusting(builder: ClientBuilder, authorities: &[Authority]) -> ClientBuilder {
    authorities.iter().cloned().fold(builder, ClientBuilder::add_root_certificate)
}

/// Whether a URL names, in place of a host's name, an address that is not to be connected to.
pub fn refuses(url: &Url, allow_private: bool) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|ip| !allow_private && !is_public(ip))
}

/// Whether a request failed because its host has no address that may be connected to.
pub fn is_not_public(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<NotPublic>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// What an error comes down to, such as "Connection refused".
pub fn innermost(error: &dyn StdError) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_place_of_a_name_is_judged_however_it_is_written() {
        let refused = |url: &str, allow_private| refuses(&Url::parse(url).unwrap(), allow_private);
        for private in ["http://127.0.0.1/", "http://[::1]:80/", "http://0x7f.1/", "http://2130706433/", "http://10.1/"]
        {
            assert!(refused(private, false) && !refused(private, true), "{private}");
        }
        for public in ["http://1.1.1.1/", "https://[2606:4700::1111]/", "http://localhost/"] {
            assert!(!refused(public, false), "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_resolved_only_where_that_is_allowed() {
        let resolve = |allow_private| Resolver::new(allow_private).resolve("localhost".parse().unwrap());
        assert!(resolve(true).await.unwrap().all(|found| found.ip().is_loopback()));
        let error = resolve(false).await.map(|_| ()).unwrap_err();
        assert!(is_not_public(&*error), "{error}");
    }
}
