//! Where a client wants to be told that its job has ended.

use reqwest::Url;

use super::{FieldError, invalid, unavailable};
use crate::egress;

/// Longest URL, in characters.
const URL_MAX: usize = 2_000;

/// What a door that takes callbacks holds them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callbacks {
    /// Also loopback, link-local and private addresses.
    pub allow_private: bool,
}

/// The URL in one spelling. `rules` is `None`: there are no callbacks.
pub(super) fn check(url: Option<&str>, rules: Option<Callbacks>) -> Result<Option<Box<str>>, FieldError> {
    let Some(text) = url else { return Ok(None) };
    let rules = rules.ok_or_else(|| {
        unavailable(
            "callback_url",
            "callback_url is not available: callbacks are disabled, so nothing would be delivered",
            "Leave it out; follow GET /events or GET /jobs/{id}?wait=terminal.",
        )
    })?;
    let refused = |what: String, hint: &'static str| {
        let error = invalid("callback_url", format!("callback_url {what}"));
        Err(FieldError { hint: Some(hint), ..error })
    };
    const FORM: &str = "Give the http or https URL that is to be posted to, such as https://example.org/hooks/ciro.";
    if text.len() > URL_MAX {
        return refused(format!("must have at most {URL_MAX} characters, not {}", text.len()), FORM);
    }
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        return refused("must begin with http:// or https://".to_owned(), FORM);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refused("must be visible ASCII characters; others are percent-encoded".to_owned(), FORM);
    }
    let Ok(url) = Url::parse(text) else { return refused("is not a URL".to_owned(), FORM) };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "Every node sees it. A secret path or query does better; or let nodes sign, see docs/callbacks.md.";
        return refused("must not hold a user or a password".to_owned(), hint);
    }
    if url.fragment().is_some() {
        return refused("must not have a fragment".to_owned(), "A fragment is never sent: leave out what follows #.");
    }
    if egress::refuses(&url, rules.allow_private) {
        let hint = "Name a host on the public internet; for tests an operator sets callbacks.allow_private.";
        return refused("must not name a loopback, link-local or private address".to_owned(), hint);
    }
    let spelt = url.as_str();
    if spelt.len() > URL_MAX {
        return refused(format!("must have at most {URL_MAX} characters once it is percent-encoded"), FORM);
    }
    Ok(Some(spelt.into()))
}

#[cfg(test)]
mod tests {
    use super::super::{Checked, Door, Rejected, Submission, code, decode};
    use super::Callbacks;

    fn submit(url: &str, allow_private: bool) -> Result<Checked, Rejected> {
        let body = serde_json::json!({"type": "sha256", "payload": "aGk=", "callback_url": url}).to_string();
        let door = Door { callbacks: Some(Callbacks { allow_private }), ..Door::from(16) };
        Ok(decode::json::<Submission>(body.as_bytes())?.check(door)?)
    }

    #[test]
    fn a_url_is_taken_in_one_spelling() {
        let (plain, spelt) = (submit("https://example.org/", false), submit("https://EXAMPLE.org:443", false));
        let (plain, spelt) = (plain.unwrap(), spelt.unwrap());
        assert_eq!(plain.spec.callback_url.as_deref(), Some("https://example.org/"));
        assert_eq!(plain.fingerprint(), spelt.fingerprint());
        assert_ne!(plain.fingerprint(), submit("https://example.org/a", false).unwrap().fingerprint());
        assert!(submit(&format!("https://example.org/{}", "a".repeat(1_980)), false).is_ok());
        for local in ["http://127.0.0.1:9/x?y=z", "http://[::1]/", "http://169.254.169.254/latest"] {
            assert!(submit(local, true).is_ok(), "{local}");
        }
    }

    #[test]
    fn what_can_not_or_must_not_be_posted_to_is_refused_with_the_field() {
        let long = format!("https://example.org/{}", "a".repeat(1_981));
        let encoded = format!("https://example.org/{}", "\"".repeat(1_000));
        let cases = [
            ("", "must begin with http:// or https://"),
            ("ftp://example.org/", "must begin with http:// or https://"),
            ("file:///etc/passwd", "must begin with http:// or https://"),
            ("//example.org/", "must begin with http:// or https://"),
            ("https://example.org/ü", "must be visible ASCII"),
            ("https://example.org/\r\nHost:x", "must be visible ASCII"),
            ("https://", "is not a URL"),
            ("http://example.org:99999/", "is not a URL"),
            ("https://user@example.org/", "must not hold a user"),
            ("https://user:pass@example.org/", "must not hold a user"),
            ("https://example.org/#top", "must not have a fragment"),
            ("http://127.0.0.1/", "must not name a loopback"),
            ("http://0x7f.0.0.1/", "must not name a loopback"),
            ("http://[::ffff:169.254.169.254]/", "must not name a loopback"),
            ("http://10.0.0.7:8080/", "must not name a loopback"),
            (&long, "must have at most 2000 characters, not 2001"),
            (&encoded, "once it is percent-encoded"),
        ];
        for (url, detail) in cases {
            let rejected = submit(url, false).expect_err(url);
            assert_eq!(
                (rejected.field.as_deref(), rejected.code),
                (Some("callback_url"), code::INVALID_FIELD),
                "{url}"
            );
            assert!(rejected.message.contains(detail), "{url}: {}", rejected.message);
            assert!(!rejected.message.contains("pass@"), "{}", rejected.message);
        }
    }

    #[test]
    fn where_there_are_none_it_is_said_instead_of_ignored() {
        let body = r#"{"type":"sha256","payload":"aGk=","callback_url":"https://example.org/"}"#;
        let refused = decode::json::<Submission>(body.as_bytes()).unwrap().check(16).unwrap_err();
        assert_eq!((refused.field, refused.fault), ("callback_url", super::super::Fault::NotAvailable));
        assert!(refused.hint.is_some());
        let none = r#"{"type":"sha256","payload":"aGk=","callback_url":null}"#;
        assert_eq!(decode::json::<Submission>(none.as_bytes()).unwrap().check(16).unwrap().spec.callback_url, None);
    }
}
