//! JSON bodies into typed values, with errors a person can act on.
//!
//! Three kinds of fault are told apart: the bytes are not JSON (400), the
//! shape is wrong (422 with the field's path), the value is out of range (422,
//! by the validation of each type). The parser's own text is never shown.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::api::{Code, Problem};

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
pub fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value: Object<T> = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        problem(&path, error.inner())
    })?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(value.0)
}

/// Reads a JSON array, leaving its items as text for [`json`]. Stops keeping items after the
/// first beyond `most`, so that what a body takes in memory does not grow with their number.
pub fn array(body: &[u8], most: usize) -> Result<Vec<&RawValue>, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let items = reader.deserialize_any(ItemsVisitor { most }).map_err(|error| problem(".", &error))?;
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

fn problem(path: &str, error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => shape(path, &error.to_string()),
        _ => syntax(error),
    }
}

fn syntax(error: &serde_json::Error) -> Problem {
    let what = if error.is_eof() { "it ends too early" } else { "it is malformed" };
    let detail = format!("the body is not JSON: {what} at line {} column {}", error.line(), error.column());
    Problem::new(Code::InvalidJson, detail)
}

/// Words a fault of the shape: `text` is serde's message, of which only the named parts are used.
fn shape(path: &str, text: &str) -> Problem {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    if let Some(name) = quoted(text, "unknown field `") {
        // The path of an unknown field already ends in its name.
        let field = if last(path) == name { path.to_owned() } else { join(path, name) };
        return Problem::new(Code::UnknownField, format!("{field} is not a field of this body")).field(field);
    }
    if let Some(name) = quoted(text, "missing field `") {
        let field = join(path, name);
        return Problem::new(Code::MissingField, format!("{field} is required")).field(field);
    }
    if let Some(name) = quoted(text, "duplicate field `") {
        let field = if last(path) == name { path.to_owned() } else { join(path, name) };
        return Problem::new(Code::InvalidField, format!("{field} is given twice")).field(field);
    }
    let field = if path == "." { "the body".to_owned() } else { path.to_owned() };
    let detail = match text.split_once(", expected ") {
        Some((found, expected)) => format!("{field} must be {}, not {}", wanted(expected), offered(found)),
        None => format!("{field} is not of the form this route takes"),
    };
    let problem = Problem::new(Code::InvalidField, detail);
    if path == "." { problem } else { problem.field(path) }
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
        "a string" | "an integer" | "an object" => expected,
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
            (r#"{"name":"#, "invalid_json", "", "the body is not JSON: it ends too early at line 1 column 8"),
            (r#"{"name":"a"} x"#, "invalid_json", "", "the body is not JSON: it is malformed at line 1 column 14"),
            ("[]", "invalid_field", "", "the body must be an object, not an array"),
            (r#"["a", 1]"#, "invalid_field", "", "the body must be an object, not an array"),
            ("7", "invalid_field", "", "the body must be an object, not integer 7"),
            (r#"{"count":1}"#, "missing_field", "name", "name is required"),
            (r#"{"name":1}"#, "invalid_field", "name", "name must be a string, not integer 1"),
            (r#"{"name":"a","nme":1}"#, "unknown_field", "nme", "nme is not a field of this body"),
            (r#"{"name":"a","name":"b"}"#, "invalid_field", "name", "name is given twice"),
            (
                r#"{"name":"a","count":1.5}"#,
                "invalid_field",
                "count",
                "count must be an integer, not floating point 1.5",
            ),
            (r#"{"name":"a","share":"x"}"#, "invalid_field", "share", "share must be a number, not string \"x\""),
            (r#"{"name":"a","inner":[]}"#, "invalid_field", "inner", "inner must be an object, not an array"),
            (
                r#"{"name":"a","inner":{"tags":{}}}"#,
                "invalid_field",
                "inner.tags",
                "inner.tags must be an array, not an object",
            ),
            (
                r#"{"name":"a","inner":{"tags":["a",2]}}"#,
                "invalid_field",
                "inner.tags[1]",
                "inner.tags[1] must be a string, not integer 2",
            ),
            (
                r#"{"name":"a","inner":{"tag":[]}}"#,
                "unknown_field",
                "inner.tag",
                "inner.tag is not a field of this body",
            ),
        ];
        for (body, code, field, detail) in cases {
            let problem = json::<Outer>(body.as_bytes()).expect_err(body);
            assert_eq!(problem.code.as_str(), code, "{body}: {}", problem.detail);
            assert_eq!(problem.field.unwrap_or_default(), field, "{body}");
            assert_eq!(problem.detail, detail, "{body}");
        }
    }

    #[test]
    fn an_array_is_kept_as_text_up_to_one_item_too_many() {
        let texts = |body: &'static str, most| -> Vec<&str> {
            array(body.as_bytes(), most).unwrap().into_iter().map(RawValue::get).collect()
        };
        assert_eq!(texts(r#" [ {"a": 1}, 7 ,[] ] "#, 3), [r#"{"a": 1}"#, "7", "[]"]);
        assert_eq!(texts("[1,2,3,4,5,6]", 2), ["1", "2", "3"]);
        assert_eq!(array(b"[1,2,3,4,", 2).unwrap_err().code, Code::InvalidJson, "what is not kept is still read");
        assert_eq!(array(b"[1] x", 2).unwrap_err().code, Code::InvalidJson);
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
