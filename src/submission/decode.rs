//! JSON bodies into typed values, with errors a person can act on.
//!
//! Two kinds of fault are told apart here: the bytes are not JSON, or the shape
//! is wrong (with the field's path). Whether a value is in range is for the
//! validation of each type. The parser's own text is never shown.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// Why bytes are not the document that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub fault: Fault,
    /// Its path, if it is one field's.
    pub field: Option<String>,
    /// For people.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not JSON.
    Syntax,
    Unknown,
    Missing,
    Invalid,
}

impl Error {
    fn of(fault: Fault, field: impl Into<String>, detail: String) -> Self {
        Self { fault, field: Some(field.into()), detail }
    }
}

/// An integer in JSON: also `3.0`, as JSON Schema has it. Ranges are checked later, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Int(pub i128);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntVisitor)
    }
}

struct IntVisitor;

impl Visitor<'_> for IntVisitor {
    type Value = Int;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an integer")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Int, E> {
        Ok(Int(i128::from(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Int, E> {
        Ok(Int(i128::from(value)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a whole number; a float cast saturates")]
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Int, E> {
        if value.fract() == 0.0 {
            Ok(Int(value as i128))
        } else {
            Err(E::invalid_type(de::Unexpected::Float(value), &self))
        }
    }
}

/// A struct from an object, and from nothing else: serde's derive would also take an array of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map))
    }
}

/// For fields that hold an object, or null.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|object| object.0))
}

/// Reads one JSON document that is an object.
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value: Object<T> = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        fault(&path, error.inner())
    })?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(value.0)
}

/// Like [`json`], of a document that was read already.
pub fn value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Error> {
    let read: Result<Object<T>, _> = serde_path_to_error::deserialize(value);
    read.map(|object| object.0).map_err(|error| fault(&error.path().to_string(), error.inner()))
}

/// Reads a JSON array, leaving its items as text for [`json`]. Stops keeping items after the
/// first beyond `most`, so that what a body takes in memory does not grow with their number.
pub fn array(body: &[u8], most: usize) -> Result<Vec<&RawValue>, Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let items = reader.deserialize_any(ItemsVisitor { most }).map_err(|error| fault(".", &error))?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(items)
}

struct ItemsVisitor {
    most: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = vec![];
        while items.len() <= self.most {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

fn fault(path: &str, error: &serde_json::Error) -> Error {
    match error.classify() {
        Category::Data => shape(path, &error.to_string()),
        _ => syntax(error),
    }
}

fn syntax(error: &serde_json::Error) -> Error {
    let what = if error.is_eof() { "it ends too early" } else { "it is malformed" };
    let detail = format!("the body is not JSON: {what} at line {} column {}", error.line(), error.column());
    Error { fault: Fault::Syntax, field: None, detail }
}

/// Words a fault of the shape: `text` is serde's message, of which only the named parts are used.
fn shape(path: &str, text: &str) -> Error {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    if let Some(name) = quoted(text, "unknown field `") {
        // The path of an unknown field already ends in its name.
        let field = if last(path) == name { path.to_owned() } else { join(path, name) };
        let detail = format!("{field} is not a field of this body");
        return Error::of(Fault::Unknown, field, detail);
    }
    if let Some(name) = quoted(text, "missing field `") {
        let field = join(path, name);
        let detail = format!("{field} is required");
        return Error::of(Fault::Missing, field, detail);
    }
    if let Some(name) = quoted(text, "duplicate field `") {
        let field = if last(path) == name { path.to_owned() } else { join(path, name) };
        let detail = format!("{field} is given twice");
        return Error::of(Fault::Invalid, field, detail);
    }
    let field = if path == "." { "the body".to_owned() } else { path.to_owned() };
    let detail = match text.split_once(", expected ") {
        Some((found, expected)) => format!("{field} must be {}, not {}", wanted(expected), offered(found)),
        None => format!("{field} is not of the form this route takes"),
    };
    Error { fault: Fault::Invalid, field: (path != ".").then(|| path.to_owned()), detail }
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.split('`').next()
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn join(path: &str, name: &str) -> String {
    if path == "." || path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn wanted(expected: &str) -> &str {
    match expected {
        "a sequence" => "an array",
        "a boolean" => "true or false",
        "f64" | "f32" => "a number",
        "a string" | "an integer" | "an object" | "a string or an object" => expected,
        _ => "of another type",
    }
}

fn offered(found: &str) -> String {
    let found = found.split_once(": ").map_or(found, |(_, value)| value);
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "an array".to_owned(),
        other => other.replace('`', "").chars().take(80).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        name: String,
        count: Option<Int>,
        share: Option<f64>,
        #[serde(default, deserialize_with = "object")]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        tags: Option<Vec<String>>,
    }

    #[test]
    fn faults_name_the_field_and_never_the_parser() {
        let cases = [
            (r#"{"name":"#, Fault::Syntax, "", "the body is not JSON: it ends too early at line 1 column 8"),
            (r#"{"name":"a"} x"#, Fault::Syntax, "", "the body is not JSON: it is malformed at line 1 column 14"),
            ("[]", Fault::Invalid, "", "the body must be an object, not an array"),
            (r#"["a", 1]"#, Fault::Invalid, "", "the body must be an object, not an array"),
            ("7", Fault::Invalid, "", "the body must be an object, not integer 7"),
            (r#"{"count":1}"#, Fault::Missing, "name", "name is required"),
            (r#"{"name":1}"#, Fault::Invalid, "name", "name must be a string, not integer 1"),
            (r#"{"name":"a","nme":1}"#, Fault::Unknown, "nme", "nme is not a field of this body"),
            (r#"{"name":"a","name":"b"}"#, Fault::Invalid, "name", "name is given twice"),
            (
                r#"{"name":"a","count":1.5}"#,
                Fault::Invalid,
                "count",
                "count must be an integer, not floating point 1.5",
            ),
            (r#"{"name":"a","share":"x"}"#, Fault::Invalid, "share", "share must be a number, not string \"x\""),
            (r#"{"name":"a","inner":[]}"#, Fault::Invalid, "inner", "inner must be an object, not an array"),
            (
                r#"{"name":"a","inner":{"tags":{}}}"#,
                Fault::Invalid,
                "inner.tags",
                "inner.tags must be an array, not an object",
            ),
            (
                r#"{"name":"a","inner":{"tags":["a",2]}}"#,
                Fault::Invalid,
                "inner.tags[1]",
                "inner.tags[1] must be a string, not integer 2",
            ),
            (
                r#"{"name":"a","inner":{"tag":[]}}"#,
                Fault::Unknown,
                "inner.tag",
                "inner.tag is not a field of this body",
            ),
        ];
        for (body, fault, field, detail) in cases {
            let error = json::<Outer>(body.as_bytes()).expect_err(body);
            assert_eq!(error.fault, fault, "{body}: {}", error.detail);
            assert_eq!(error.field.unwrap_or_default(), field, "{body}");
            assert_eq!(error.detail, detail, "{body}");
        }
    }

    #[test]
    fn an_array_is_kept_as_text_up_to_one_item_too_many() {
        let texts = |body: &'static str, most| -> Vec<&str> {
            array(body.as_bytes(), most).unwrap().into_iter().map(RawValue::get).collect()
        };
        assert_eq!(texts(r#" [ {"a": 1}, 7 ,[] ] "#, 3), [r#"{"a": 1}"#, "7", "[]"]);
        assert_eq!(texts("[1,2,3,4,5,6]", 2), ["1", "2", "3"]);
        assert_eq!(array(b"[1,2,3,4,", 2).unwrap_err().fault, Fault::Syntax, "what is not kept is still read");
        assert_eq!(array(b"[1] x", 2).unwrap_err().fault, Fault::Syntax);
        assert_eq!(array(b"{}", 2).unwrap_err().detail, "the body must be an array, not an object");
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(array(&deep, 2).unwrap().len(), 1, "deep nesting is passed over, not followed");
    }

    #[test]
    fn whole_floats_are_integers() {
        let outer: Outer = json(br#"{"name":"a","count":3.0}"#).unwrap();
        assert_eq!(outer.count, Some(Int(3)));
        assert!(json::<Outer>(&[b'['; 100_000]).is_err(), "deep nesting is refused, not followed");
    }
}
