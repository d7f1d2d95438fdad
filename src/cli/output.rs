//! Answers on standard output: tables for people, JSON for programs. Progress
//! goes to standard error, and only to a terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::failure::{Failure, printable};

/// Longest text of one cell.
const CELL_MAX: usize = 120;

/// Writes a line.
pub fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes as they are.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes an answer as indented JSON.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Writes a table with upper-case headings and no borders: easy to read, easy to cut.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    line(&format_table(headings, rows))
}

fn format_table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !headings.is_empty() {
        table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Writes a list: one row an item, one column a path into it (`award.price`).
pub fn list(items: &[Value], columns: &[(&str, &str)]) -> Result<(), Failure> {
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let rows = items.iter().map(|item| columns.iter().map(|(_, path)| short(at(item, path))).collect()).collect();
    table(&headings, rows)
}

/// The value at a dotted path; null where there is none.
pub fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |value, key| &value[key])
}

/// A value in one cell of a list.
fn short(value: &Value) -> String {
    let text = cell(value);
    if text.chars().count() <= CELL_MAX { text } else { text.chars().take(CELL_MAX - 1).chain(['…']).collect() }
}

/// A value in one line.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        Value::Object(fields) if fields.values().all(|field| !field.is_object() && !field.is_array()) => fields
            .iter()
            .map(|(key, value)| format!("{}={}", printable(key), cell(value)))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join("; "),
        other => printable(&other.to_string()),
    }
}

/// Writes one thing: its fields, then its lists as tables of their own.
pub fn thing(value: &Value) -> Result<(), Failure> {
    let Value::Object(fields) = value else { return line(&cell(value)) };
    let (lists, plain): (Vec<_>, Vec<_>) = fields.iter().partition(|(_, value)| is_list_of_things(value));
    let mut rows = vec![];
    for (key, value) in plain {
        flatten(printable(key), value, &mut rows);
    }
    table(&[], rows)?;
    for (name, items) in lists {
        line(&format!("\n{}:", printable(name)))?;
        let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
        let keys = keys_of(items);
        let columns: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), key.as_str())).collect();
        list(items, &columns)?;
    }
    Ok(())
}

/// One row for each leaf: `requirements.min_ram_gb  2`.
fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                flatten(format!("{path}.{}", printable(key)), value, rows);
            }
        }
        leaf => rows.push(vec![path, cell(leaf)]),
    }
}

fn is_list_of_things(value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_object))
}

/// Every key of the items, in the order in which they first appear.
fn keys_of(items: &[Value]) -> Vec<String> {
    let mut keys: Vec<String> = vec![];
    for key in items.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys
}

/// A display of how far something is; nothing unless standard error is a terminal.
pub fn progress(total: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = if total > 1 { ProgressBar::new(total) } else { ProgressBar::new_spinner() };
    let template = if total > 1 { "{msg} {bar:30} {pos}/{len} {elapsed}" } else { "{spinner} {msg} {elapsed}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_headings_and_no_trailing_blanks() {
        let text =
            format_table(&["id", "state"], vec![vec!["1".into(), "pending".into()], vec!["22".into(), "-".into()]]);
        assert_eq!(text, "ID  STATE\n1   pending\n22  -");
    }

    #[test]
    fn cells_show_what_is_there_in_one_line() {
        assert_eq!(cell(&json!(null)), "-");
        assert_eq!(cell(&json!(["a", 1])), "a, 1");
        assert_eq!(cell(&json!({"code": "x", "detail": "y\nz"})), "code=x detail=y z");
        assert_eq!(short(&json!("x".repeat(500))).chars().count(), CELL_MAX);
        assert_eq!(cell(&json!([{"a": 1}, {"b": "x"}])), "a=1; b=x");
        assert_eq!(at(&json!({"a": {"b": 3}}), "a.b"), &json!(3));
        assert_eq!(at(&json!({}), "a.b"), &Value::Null);
    }

    #[test]
    fn what_is_nested_gets_a_row_for_each_leaf() {
        let mut rows = vec![];
        flatten("a".into(), &json!({ "b": { "c": 1 }, "d": {} }), &mut rows);
        assert_eq!(rows, [["a.b.c", "1"], ["a.d", ""]]);
    }

    #[test]
    fn columns_of_uneven_items_are_the_union() {
        assert_eq!(keys_of(&[json!({"a": 1}), json!({"b": 2, "a": 3})]), ["a", "b"]);
    }
}
