//! What a text value must look like, and how it looks without its credentials.
//!
//! Each rule takes one text and says, when it does not fit, what would.

use std::net::{IpAddr, SocketAddr};

use super::Environment;
use crate::domain::PeerId;
use crate::domain::chain::Felt;
use crate::domain::member::Token;

type Checked = Result<(), &'static str>;

fn ensure(fits: bool, expected: &'static str) -> Checked {
    if fits { Ok(()) } else { Err(expected) }
}

pub(super) fn any(_: &str) -> Checked {
    Ok(())
}

pub(super) fn not_empty(text: &str) -> Checked {
    ensure(!text.trim().is_empty(), "must not be empty")
}

pub(super) fn environment(text: &str) -> Checked {
    ensure(text.parse::<Environment>().is_ok(), "expected development, staging, production or test")
}

pub(super) fn database_url(text: &str) -> Checked {
    let fits = text.is_empty() || ["postgresql://", "postgres://"].iter().any(|scheme| text.starts_with(scheme));
    ensure(fits, "expected postgresql://[user[:password]@]host[:port]/database, or empty for none")
}

pub(super) fn socket_address(text: &str) -> Checked {
    ensure(text.parse::<SocketAddr>().is_ok(), "expected an IP address and a port, e.g. \"127.0.0.1:8080\"")
}

pub(super) fn ip_address(text: &str) -> Checked {
    ensure(text.parse::<IpAddr>().is_ok(), "expected an IP address without a port, e.g. \"0.0.0.0\"")
}

pub(super) fn network_name(text: &str) -> Checked {
    let fits = (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    ensure(fits, "expected 1 to 32 lower-case letters, digits and hyphens")
}

pub(super) fn http_url(text: &str) -> Checked {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = text.is_empty() || host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    ensure(fits && !text.contains(char::is_whitespace), "expected an http:// or https:// URL")
}

pub(super) fn felt(text: &str) -> Checked {
    let fits = text.is_empty() || (text.starts_with("0x") && text.parse::<Felt>().is_ok());
    ensure(fits, "expected 0x and 1 to 64 hex digits, below the field's prime")
}

pub(super) fn chain_id(text: &str) -> Checked {
    let fits = text.is_empty() || super::blockchain::read_chain_id(text).is_some();
    ensure(fits, "expected a name like SN_SEPOLIA of at most 31 bytes, or 0x and hex digits, or empty for any")
}

pub(super) fn amount(text: &str) -> Checked {
    let fits = text.is_empty() || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u128>().is_ok());
    ensure(fits, "expected a whole number in quotes, below 2^128, or empty for none")
}

pub(super) fn block_number(text: &str) -> Checked {
    let fits = text.is_empty() || (text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok());
    ensure(fits, "expected a block's number in quotes, or empty for none")
}

pub(super) fn chain_generation(text: &str) -> Checked {
    ensure(matches!(text, "auto" | "full" | "submission_only"), "expected auto, full or submission_only")
}

pub(super) fn chain_settlement(text: &str) -> Checked {
    let fits = matches!(text, "none" | "settle_later" | "register_before_distribution");
    ensure(fits, "expected none, settle_later or register_before_distribution")
}

pub(super) fn chain_confirmation(text: &str) -> Checked {
    let fits = matches!(text, "preconfirmed" | "accepted_l2" | "accepted_l1");
    ensure(fits, "expected preconfirmed, accepted_l2 or accepted_l1")
}

/// Its value is never repeated.
pub(super) fn private_key(text: &str) -> Checked {
    ensure(text.is_empty() || text.parse::<Felt>().is_ok(), "expected 0x and 1 to 64 hex digits")
}

pub(super) fn host_port(text: &str) -> Checked {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    ensure(fits, "expected host:port, e.g. \"localhost:9092\"")
}

/// Room is left for the names that are made of it: `.dlq`, `.progress`.
pub(super) fn topic(text: &str) -> Checked {
    let fits = (1..=240).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        && !matches!(text, "." | "..");
    ensure(fits, "expected 1 to 240 letters, digits, dots, hyphens and underscores")
}

pub(super) fn kafka_mode(text: &str) -> Checked {
    ensure(matches!(text, "embedded" | "external"), "expected embedded or external")
}

pub(super) fn kafka_delivery(text: &str) -> Checked {
    ensure(matches!(text, "at_least_once" | "exactly_once"), "expected at_least_once or exactly_once")
}

pub(super) fn kafka_start(text: &str) -> Checked {
    ensure(matches!(text, "earliest" | "latest"), "expected earliest or latest")
}

pub(super) fn kafka_protocol(text: &str) -> Checked {
    let fits = matches!(text, "plaintext" | "ssl" | "sasl_plaintext" | "sasl_ssl");
    ensure(fits, "expected plaintext, ssl, sasl_plaintext or sasl_ssl")
}

pub(super) fn sasl_mechanism(text: &str) -> Checked {
    let fits = matches!(text, "" | "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512");
    ensure(fits, "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, or empty for none")
}

/// Its value is never repeated.
pub(super) fn callback_secret(text: &str) -> Checked {
    ensure(text.is_empty() || (16..=1_024).contains(&text.len()), "expected 16 to 1024 characters, or empty for none")
}

/// Its value is never repeated.
pub(super) fn invitation(text: &str) -> Checked {
    let fits = text.is_empty() || text.parse::<Token>().is_ok();
    ensure(fits, "expected all of what `ciro-coordinator cluster invite` printed, or empty for none")
}

pub(super) fn log_format(text: &str) -> Checked {
    ensure(matches!(text, "text" | "json"), "expected text or json")
}

pub(super) fn log_level(text: &str) -> Checked {
    let level = |text: &str| matches!(text, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let fits = text.split(',').map(str::trim).all(|part| match part.rsplit_once('=') {
        Some((target, wanted)) => !target.is_empty() && level(wanted),
        None => level(part),
    });
    ensure(fits, "expected error, warn, info, debug or trace, or directives like \"info,ciro::mesh=debug\"")
}

/// A multiaddr one can dial: `/ip4/…/tcp/4001`, `/dns/…/udp/4001/quic-v1`.
pub(super) fn multiaddr(text: &str) -> Checked {
    let expected = "expected a multiaddr without /p2p/, e.g. \"/ip4/203.0.113.7/tcp/4001\"";
    ensure(split_multiaddr(text).is_some_and(|peer| peer.is_none()), expected)
}

pub(super) fn peer_multiaddr(text: &str) -> Checked {
    let expected = "expected a multiaddr with /p2p/ and a peer id, e.g. \"/ip4/10.0.0.2/tcp/4001/p2p/12D3KooW…\"";
    ensure(peer_of(text).is_some(), expected)
}

/// The peer id at the end of a multiaddr.
pub(super) fn peer_of(text: &str) -> Option<PeerId> {
    split_multiaddr(text)?
}

/// `None`: not a multiaddr we know. `Some(None)`: one without a peer.
fn split_multiaddr(text: &str) -> Option<Option<PeerId>> {
    let parts: Vec<&str> = text.strip_prefix('/')?.split('/').collect();
    let [host_kind, host, transport, port, rest @ ..] = parts.as_slice() else { return None };
    let host_fits = match *host_kind {
        "ip4" => host.parse::<std::net::Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<std::net::Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => !host.is_empty() && !host.contains(char::is_whitespace),
        _ => false,
    };
    let rest = match (*transport, rest) {
        ("tcp", rest) | ("udp", ["quic-v1", rest @ ..]) => rest,
        _ => return None,
    };
    if !host_fits || port.parse::<u16>().is_err() {
        return None;
    }
    match rest {
        [] => Some(None),
        ["p2p", peer] => Some(Some(peer.parse().ok()?)),
        _ => None,
    }
}

/// A URL without user, password, query, and parts of its path that look like an access key.
pub(super) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.is_empty() { String::new() } else { "***".to_owned() };
    };
    // Is it a password with '?' in it, or a query with '@'? Either may be secret.
    if rest.find(['?', '#']).is_some_and(|query| rest[query..].contains('@')) {
        return format!("{scheme}://***");
    }
    let (rest, query) = rest.split_once(['?', '#']).map_or((rest, ""), |(rest, _)| (rest, "?***"));
    // A password may itself hold '/' or '@': everything before the last '@' goes.
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| ("***@", rest));
    let path: Vec<&str> = rest
        .split('/')
        .enumerate()
        .map(|(i, part)| if i > 0 && looks_like_a_key(part) { "***" } else { part })
        .collect();
    format!("{scheme}://{user}{}{query}", path.join("/"))
}

fn looks_like_a_key(part: &str) -> bool {
    part.len() >= 16 && part.bytes().any(|b| b.is_ascii_digit())
}

/// Single-letter edits between two words.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
