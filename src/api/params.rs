//! Query parameters as data: checked and documented from one declaration.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::problem::{Code, Problem};
use super::text;
use crate::submission::{NAME, NAME_RULE, is_name};

/// One query parameter of a route.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
}

/// What values a parameter takes.
#[derive(Clone, Debug)]
pub enum Kind {
    Integer {
        min: u64,
        max: u64,
    },
    Choice(Vec<&'static str>),
    /// At most this many characters.
    Text(usize),
    /// A lower-case identifier.
    Name,
    Time,
    JobId,
    PeerId,
    /// Where a list goes on: this many bytes in hex.
    Cursor(usize),
}

impl Param {
    pub fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, about, kind }
    }

    /// JSON Schema of the values.
    pub fn schema(&self) -> Value {
        match &self.kind {
            Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
            Kind::Choice(values) => json!({"type": "string", "enum": values}),
            Kind::Text(max) => json!({"type": "string", "minLength": 1, "maxLength": max}),
            Kind::Name => json!({"type": "string", "pattern": NAME}),
            Kind::Time => json!({"type": "string", "format": "date-time"}),
            Kind::JobId => json!({"type": "string", "format": "uuid"}),
            Kind::PeerId => json!({"type": "string", "pattern": PEER_ID}),
            Kind::Cursor(bytes) => json!({"type": "string", "pattern": format!("^[0-9a-f]{{{}}}$", bytes * 2)}),
        }
    }

    /// Whether the parameter takes `value`; if not, what it takes.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let (valid, wanted) = match &self.kind {
            Kind::Integer { min, max } => {
                let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let inside = value.parse::<u64>().is_ok_and(|value| (*min..=*max).contains(&value));
                (digits && inside, format!("an integer from {min} to {max}"))
            }
            Kind::Choice(values) => (values.contains(&value), format!("one of {}", values.join(", "))),
            Kind::Text(max) => ((1..=*max).contains(&value.chars().count()), format!("text of 1 to {max} characters")),
            Kind::Name => (is_name(value), NAME_RULE.to_owned()),
            Kind::Time => (text::parse_time(value).is_some(), "a time in RFC 3339".to_owned()),
            Kind::JobId => (value.parse::<crate::domain::JobId>().is_ok(), "a UUID".to_owned()),
            Kind::PeerId => (looks_like_peer_id(value), "a peer id (12D3KooW…)".to_owned()),
            Kind::Cursor(bytes) => {
                let hex = value.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                (hex && value.len() == bytes * 2, "a next_cursor of an earlier answer".to_owned())
            }
        };
        if valid { Ok(()) } else { Err(wanted) }
    }
}

pub const PEER_ID: &str = "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$";

/// Whether text has the form of a peer id. About a third of such text is one.
pub fn looks_like_peer_id(text: &str) -> bool {
    text.len() == 52
        && text.starts_with("12D3KooW")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l'))
}

/// Checks a query against what the route declares. Each parameter at most once.
pub fn check(declared: &[Param], query: Vec<(String, String)>) -> Result<BTreeMap<&'static str, String>, Problem> {
    let mut values = BTreeMap::new();
    for (name, value) in query {
        let Some(param) = declared.iter().find(|param| param.name == name) else {
            return Err(unknown(declared, &name));
        };
        param.check(&value).map_err(|wanted| {
            let shown: String = value.chars().take(80).collect();
            Problem::new(Code::InvalidParameter, format!("{name} must be {wanted}, not {shown:?}")).field(param.name)
        })?;
        if values.insert(param.name, value).is_some() {
            return Err(Problem::new(Code::InvalidParameter, format!("{name} is given twice")).field(param.name));
        }
    }
    Ok(values)
}

fn unknown(declared: &[Param], name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    let names: Vec<_> = declared.iter().map(|param| param.name).collect();
    let hint = if names.is_empty() {
        "This route takes no parameters.".to_owned()
    } else {
        format!("This route takes {}.", names.join(", "))
    };
    Problem::new(Code::UnknownParameter, format!("{shown:?} is not a parameter of this route")).field(shown).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn values_outside_of_a_kind_are_refused_by_name() {
        let peer = crate::domain::PeerId([7; 32]).to_string();
        let cases: [(Kind, &[&str], &[&str]); 8] = [
            (Kind::Integer { min: 1, max: 9 }, &["1", "9", "09"], &["0", "10", "-1", "+1", "1.0", "", "x", "1e0"]),
            (Kind::Choice(vec!["a", "b"]), &["a"], &["", "c", "A"]),
            (Kind::Text(3), &["a", "äöü"], &["", "abcd"]),
            (Kind::Name, &["a", "ai_inference"], &["", "A", "1a", "a-b"]),
            (Kind::Time, &["2030-01-01T00:00:00Z"], &["2030", "x"]),
            (Kind::JobId, &["018f0000-0000-7000-8000-000000000000"], &["x", "018f0000000070008000000000000000"]),
            (Kind::PeerId, &[&peer], &["x", "12D3KooW"]),
            (Kind::Cursor(2), &["00ff"], &["00f", "00FF", "zzzz"]),
        ];
        for (kind, good, bad) in cases {
            let declared = [Param::new("p", kind, "")];
            for value in good {
                assert!(check(&declared, query("p", value)).is_ok(), "{value}");
            }
            for value in bad {
                let problem = check(&declared, query("p", value)).expect_err(value);
                assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidParameter, Some("p")), "{value}");
            }
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let declared = [Param::new("limit", Kind::Integer { min: 1, max: 9 }, "")];
        let problem = check(&declared, query("limt", "1")).unwrap_err();
        assert_eq!((problem.code, problem.hint.as_deref()), (Code::UnknownParameter, Some("This route takes limit.")));
        let twice = [query("limit", "1"), query("limit", "1")].concat();
        assert_eq!(check(&declared, twice).unwrap_err().code, Code::InvalidParameter);
    }
}
