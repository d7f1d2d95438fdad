//! Why a command did not succeed, and the exit code that says so to programs.

use std::error::Error as StdError;
use std::fmt;

use serde_json::Value;

/// Exit codes. Documented in `--help`; never change what one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    JobFailed = 5,
    Timeout = 6,
    Untrue = 7,
}

/// What went wrong, for a person, and what to do about it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
    /// The reader of our output went away: not worth a word.
    pub silent: bool,
    /// What was asked for may have been done all the same.
    pub doubtful: bool,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, silent: false, doubtful: false }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn doubtful(mut self) -> Self {
        self.doubtful = true;
        self
    }

    /// `context`, then the error and everything behind it.
    pub fn because(context: &str, error: &dyn StdError) -> Self {
        Self::new(Kind::Failed, format!("{context}: {}", chain(error)))
    }

    /// What a node answered instead of the resource. Its text is shown without control characters.
    pub fn problem(status: u16, body: &Value) -> Self {
        let text = |key: &str| body[key].as_str().filter(|text| !text.is_empty()).map(printable);
        let mut message = text("detail").or_else(|| text("title")).unwrap_or_else(|| format!("HTTP status {status}"));
        if let Some(code) = text("code") {
            message += &format!(" ({code})");
        }
        let kind = match status {
            400..=499 => Kind::Refused,
            502..=504 => Kind::Unreachable,
            _ => Kind::Failed,
        };
        // Also a node that failed, or something between it and us, may have passed the request on.
        let doubtful = text("code").as_deref() == Some("outcome_unknown") || matches!(status, 500 | 502 | 504);
        Self { kind, message, hint: text("hint"), silent: false, doubtful }
    }

    pub fn code(&self) -> u8 {
        self.kind as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Output that nobody reads any more ends the command quietly, like other tools do.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let silent = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { silent, ..Self::new(Kind::Failed, format!("write output: {error}")) }
    }
}

/// An error and its sources, once each.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text += &format!(": {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Text from elsewhere, safe to show on a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_becomes_its_detail_code_and_hint() {
        let body =
            json!({"detail": "priority must be from 1 to 10, not 999", "code": "invalid_field", "hint": "see /docs"});
        let failure = Failure::problem(422, &body);
        assert_eq!(failure.code(), 4);
        assert_eq!(
            failure.to_string(),
            "error: priority must be from 1 to 10, not 999 (invalid_field)\n hint: see /docs"
        );
        assert_eq!(Failure::problem(503, &json!(null)).code(), 3);
        assert_eq!(Failure::problem(500, &json!(null)).to_string(), "error: HTTP status 500");
    }

    #[test]
    fn what_a_node_says_can_not_drive_the_terminal() {
        assert_eq!(Failure::problem(404, &json!({"detail": "a\u{1b}[2Jb"})).message, "a [2Jb");
    }

    #[test]
    fn a_closed_pipe_is_silent() {
        let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(Failure::from(error).silent);
    }
}
