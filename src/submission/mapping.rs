//! Protobuf's JSON mapping, brought into the form of the REST body.
//!
//! The mapping writes names in lowerCamelCase and may write numbers as strings;
//! both are undone here. What is left of the differences is none: fields have
//! the same names, bytes are base64, times are RFC 3339.

use serde_json::{Map, Number, Value};

/// Fields that are numbers, by the object they are in (empty: the job itself).
const NUMBERS: [(&str, &[&str]); 6] = [
    ("", &["priority", "timeout_secs", "redundancy"]),
    ("input", &["size"]),
    ("price_escalation", &["every_secs"]),
    (
        "requirements",
        &[
            "min_cpu_cores",
            "min_ram_gb",
            "min_gpu_memory_gb",
            "max_network_latency_ms",
            "max_worker_load",
            "min_reputation",
        ],
    ),
    ("weights", &["price", "time", "reputation", "load", "distance"]),
    ("retry", &["max_attempts", "initial_delay_ms", "multiplier", "max_delay_ms"]),
];

/// What a document was in the mapping's form.
pub(super) enum Mapped {
    /// Nothing in it is of the mapping's own form.
    Same,
    To(Value),
    /// A field is given under both of its names.
    Twice(String),
}

/// Brings a job in the mapping's form into that of the REST body.
pub(super) fn map(value: Value) -> Mapped {
    let Value::Object(fields) = value else { return Mapped::Same };
    let mut changed = false;
    match object("", fields, &mut changed) {
        Err(field) => Mapped::Twice(field),
        Ok(mut fields) => {
            changed |= settlement(&mut fields);
            if changed { Mapped::To(Value::Object(fields)) } else { Mapped::Same }
        }
    }
}

/// # Errors
///
/// The path of a field that is given twice.
fn object(path: &str, fields: Map<String, Value>, changed: &mut bool) -> Result<Map<String, Value>, String> {
    let numbers = NUMBERS.iter().find(|(object, _)| *object == path).map_or(&[][..], |(_, numbers)| *numbers);
    let mut mapped = Map::new();
    for (name, value) in fields {
        let renamed = snake_case(&name);
        *changed |= renamed != name;
        let value = match value {
            Value::Object(inner) if path.is_empty() => Value::Object(object(&renamed, inner, changed)?),
            Value::String(text) if numbers.contains(&renamed.as_str()) => number(text, changed),
            other => other,
        };
        if mapped.contains_key(&renamed) {
            return Err(if path.is_empty() { renamed } else { format!("{path}.{renamed}") });
        }
        mapped.insert(renamed, value);
    }
    Ok(mapped)
}

/// Puts the two fields of protobuf into the one of the REST body; false if there is nothing to do.
fn settlement(fields: &mut Map<String, Value>) -> bool {
    let Some(confirmation) = fields.remove("settlement_confirmation") else { return false };
    let mut terms = match fields.remove("settlement") {
        Some(Value::Object(terms)) => terms,
        policy => policy.map(|policy| ("policy".to_owned(), policy)).into_iter().collect(),
    };
    terms.entry("confirmation").or_insert(confirmation);
    fields.insert("settlement".to_owned(), Value::Object(terms));
    true
}

fn number(text: String, changed: &mut bool) -> Value {
    match text.parse::<Number>() {
        Ok(number) => {
            *changed = true;
            Value::Number(number)
        }
        Err(_) => Value::String(text),
    }
}

/// `maxPrice` → `max_price`; what is not lowerCamelCase stays as it is.
fn snake_case(name: &str) -> String {
    if name.contains('_') || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return name.to_owned();
    }
    let mut renamed = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            renamed.push('_');
        }
        renamed.push(letter.to_ascii_lowercase());
    }
    renamed
}
