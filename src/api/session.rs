//! Sessions: a client never sees less than it has seen, whichever node it asks.
//!
//! Every answer carries a token that says how far the state behind it was. Sent
//! with the next request, it makes the node that gets it wait until it is as
//! far, so a client reads its own writes, and time never runs backwards for it,
//! across nodes and fail-overs, at the price of plain stale reads.
//!
//! A token is opaque to clients: a version, the name of the cluster's history
//! ([`crate::domain::State::history`]) and an index of its log. What was
//! acknowledged is never lost, so an index stays true for as long as the history
//! does; a token of another history says nothing here, and is refused.
//!
//! Invariants
//!
//! * A token covers all that the answer shows: it is made after the answer, from the state's own index.
//! * It never goes back: what came in with the request is kept if it is further.
//!
//! Deliberately absent: anything secret. A forged token makes its own sender wait, at most the read deadline.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warp::http::HeaderMap;

use super::Api;
use super::consistency::reach;
use super::problem::{Code, Problem};

pub const HEADER: &str = "x-ciro-session";

/// As users write it.
const NAME: &str = "X-Ciro-Session";

/// Of the form of a token.
const VERSION: u8 = 1;

/// How far a client has seen, in which history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// 0: from before the history had a name.
    pub history: u64,
    pub index: u64,
}

impl Token {
    fn is_foreign_to(self, history: u64) -> bool {
        self.history != 0 && history != 0 && self.history != history
    }
}

/// Version, history, and the index without its leading zeros.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.history.to_be_bytes());
        bytes.extend(self.index.to_be_bytes().into_iter().skip_while(|byte| *byte == 0));
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = &'static str;

    /// Takes only what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NONE: &str = "it is not a token that a node gave out";
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NONE)?;
        let (version, rest) = bytes.split_first().ok_or(NONE)?;
        if *version != VERSION {
            return Err("it is of a version that this node does not know");
        }
        let (history, index) = rest.split_first_chunk().ok_or(NONE)?;
        if index.len() > size_of::<u64>() || index.first() == Some(&0) {
            return Err(NONE);
        }
        let index = index.iter().fold(0, |index, byte| index << 8 | u64::from(*byte));
        Ok(Self { history: u64::from_be_bytes(*history), index })
    }
}

/// The token that a request brings, if it brings one.
///
/// # Errors
///
/// It brings something else.
pub fn of(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid("there is more than one"));
    }
    let token = value.to_str().map_err(|_| "it is not text").and_then(str::parse);
    token.map(Some).map_err(invalid)
}

fn invalid(why: &str) -> Problem {
    let problem = Problem::new(Code::InvalidHeader, format!("{NAME} can not be used: {why}")).field(NAME);
    problem.hint("Send it as the last answer gave it, or leave it out to begin a new session.")
}

/// Waits until this node is as far as the client has seen. A route that shows no replicated state only looks
/// whether the token is of this cluster.
///
/// # Errors
///
/// The token is of another cluster; or it takes longer than the read deadline.
pub async fn follow(api: &Api, seen: Token, wait: bool) -> Result<(), Problem> {
    known(api, seen)?;
    if wait {
        reach(api, seen.index, NAME).await?;
        // A node that had applied nothing could not tell before.
        known(api, seen)?;
    }
    Ok(())
}

fn known(api: &Api, seen: Token) -> Result<(), Problem> {
    if seen.is_foreign_to(api.client().read(|state| state.history())) {
        let problem = Problem::new(Code::ForeignSession, format!("{NAME} was given out by another cluster"));
        return Err(problem.field(NAME));
    }
    Ok(())
}

/// The token for the answer of a node that is `here`, to a client that has `seen` so much.
pub fn next(here: Token, seen: Option<Token>) -> Token {
    match seen {
        Some(seen) if !seen.is_foreign_to(here.history) => {
            Token { history: here.history.max(seen.history), index: here.index.max(seen.index) }
        }
        _ => here,
    }
}

/// Whether a token says less than another one of the same history.
pub fn is_older(token: &str, other: &str) -> bool {
    match (token.parse::<Token>(), other.parse::<Token>()) {
        (Ok(token), Ok(other)) => !token.is_foreign_to(other.history) && token.index < other.index,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(tokens: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for token in tokens {
            headers.append(HEADER, token.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_short_and_read_as_it_was_written() {
        for index in [0, 1, 255, 256, 1 << 40, u64::MAX] {
            let token = Token { history: 0x1234_5678_9abc_def0, index };
            let text = token.to_string();
            assert_eq!(text.parse(), Ok(token), "{text}");
            assert!(text.len() <= 23, "{text}");
        }
        assert_eq!(Token { history: 1, index: 300 }.to_string(), "AQAAAAAAAAABASw");
    }

    #[test]
    fn what_no_node_gave_out_is_refused_with_the_headers_name() {
        let long = "A".repeat(4_096);
        for text in ["", "x", "latest", "AQ", "AgAAAAAAAAABASw", "AQAAAAAAAAABAAE", "AQAAAAAAAAABASw=", "123456", &long]
        {
            let problem = of(&asked(&[text])).unwrap_err();
            assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidHeader, Some(NAME)), "{text:?}");
            assert!(problem.hint.is_some());
        }
        let twice = of(&asked(&["AQAAAAAAAAABASw", "AQAAAAAAAAABASw"])).unwrap_err();
        assert!(twice.detail.contains("more than one"), "{}", twice.detail);
        assert_eq!(of(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn tokens_of_one_history_have_an_order() {
        let token = |history, index| Token { history, index }.to_string();
        assert!(is_older(&token(1, 5), &token(1, 6)));
        assert!(!is_older(&token(1, 6), &token(1, 6)));
        assert!(!is_older(&token(2, 5), &token(1, 6)), "of a cluster that was restored");
        assert!(!is_older("", &token(1, 6)));
    }

    #[test]
    fn a_session_never_goes_back() {
        let here = Token { history: 9, index: 100 };
        let next = |seen: Token| super::next(here, Some(seen));
        assert_eq!(next(Token { history: 9, index: 70 }), here);
        assert_eq!(next(Token { history: 9, index: 170 }), Token { history: 9, index: 170 });
        assert_eq!(next(Token { history: 0, index: 3 }), here, "from the cluster's first moments");
        assert_eq!(next(Token { history: 8, index: 170 }), here, "another cluster's says nothing");
        assert_eq!(super::next(here, None), here);
        let young = Token { history: 0, index: 1 };
        let seen = Token { history: 9, index: 170 };
        assert_eq!(super::next(young, Some(seen)), seen, "a node that has applied nothing yet");
    }
}
