//! Holds an answer against the contract's rules and the node's own OpenAPI document.

use serde_json::Value;

use crate::node::Answer;

const HEADERS: [&str; 8] = [
    "x-ciro-node",
    "x-ciro-role",
    "x-ciro-term",
    "x-ciro-leader",
    "x-ciro-applied-index",
    "x-ciro-staleness-ms",
    "x-ciro-session",
    "x-request-id",
];

pub fn hold(document: &Value, method: &str, path: &str, answer: &Answer) {
    let what = format!("{method} {path} → {} {}", answer.status, answer.text.chars().take(400).collect::<String>());
    for name in HEADERS {
        assert!(answer.headers.contains_key(name), "{name} is missing: {what}");
    }
    let media = answer.header("content-type");
    let own_document = matches!(path.split('?').next(), Some("/health"));
    if answer.status >= 400 && method != "HEAD" && !own_document {
        assert_eq!(media, "application/problem+json", "{what}");
        for field in ["type", "title", "detail", "code", "hint", "request_id"] {
            assert!(answer.body[field].is_string(), "{field} is missing: {what}");
        }
        assert_eq!(answer.body["status"], answer.status, "{what}");
        assert_eq!(answer.body["request_id"], answer.header("x-request-id"), "{what}");
        assert!(!answer.text.contains("serde") && !answer.text.contains("line 0"), "a library's own words: {what}");
    }
    if matches!(answer.status, 429 | 503) && !own_document {
        assert!(answer.headers.contains_key("retry-after"), "{what}");
    }
    let Some(operation) = operation(document, method, path) else { return };
    let documented = &operation["responses"][answer.status.to_string()];
    assert!(documented.is_object(), "the status is not documented: {what}");
    let Some(content) = documented["content"].as_object() else { return };
    assert!(content.contains_key(media), "media type {media} is not documented: {what}");
}

/// The operation of the document that serves a path, if there is one.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let path = path.split('?').next()?;
    let fits = |pattern: &str| {
        let (ours, theirs): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(our, their)| our.starts_with('{') || our == their)
    };
    let paths = document["paths"].as_object()?;
    let literal = paths.get(path);
    let item = literal.or_else(|| paths.iter().find(|(pattern, _)| fits(pattern)).map(|(_, item)| item))?;
    item.get(method.to_ascii_lowercase())
}
