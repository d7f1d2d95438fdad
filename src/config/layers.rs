//! Laying the sources over each other, each value with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::schema::{self, KEYS, Key, Kind, SECTIONS};
use super::{Environment, Error, text};

/// Where configuration comes from, in the order of their weight.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// Variables of the process; those that do not begin with `CIRO__` are not looked at.
    pub variables: Vec<(String, String)>,
    /// The flag `--environment`.
    pub environment: Option<Environment>,
    /// `section.key` and value, from `--set` and the flags that stand for a key.
    pub flags: Vec<(String, String)>,
}

/// Who said a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Every key's value and origin.
#[derive(Clone, Debug)]
pub struct Layered {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

/// Something that was said, before it is known to make sense.
struct Said {
    path: String,
    value: Spoken,
    origin: Origin,
}

enum Spoken {
    Value(Value),
    /// From a variable or flag: read according to the key's kind.
    Text(String),
}

impl Layered {
    /// # Errors
    ///
    /// Everything unreadable, unknown or out of range.
    pub(super) fn read(sources: &Sources) -> Result<Self, Error> {
        let mut said = match &sources.file {
            Some(path) => read_file(path).map_err(|problem| Error(vec![problem]))?,
            None => vec![],
        };
        said.extend(variables(&sources.variables));
        said.extend(flags(sources));

        let mut problems = vec![];
        let mut values = BTreeMap::new();
        for Said { path, value, origin } in said {
            match accept(&path, value, &origin) {
                Ok((key, value)) => {
                    values.insert(key.path, (value, origin));
                }
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(Error(problems));
        }
        let environment = environment_of(&values);
        for key in KEYS {
            values.entry(key.path).or_insert_with(|| (key.default_in(environment), Origin::Default));
        }
        Ok(Self { values })
    }

    pub(super) fn to_table(&self) -> Table {
        let mut table = Table::new();
        for key in KEYS {
            let Some((value, _)) = self.values.get(key.path) else { continue };
            let target = if key.section().is_empty() {
                &mut table
            } else {
                let section = table.entry(key.section()).or_insert_with(|| Value::Table(Table::new()));
                let Value::Table(section) = section else { continue };
                section
            };
            target.insert(key.name().to_owned(), value.clone());
        }
        table
    }

    pub fn origin(&self, path: &str) -> Origin {
        self.values.get(path).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// The whole as TOML, without credentials, each value with its origin.
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let Some((value, origin)) = self.values.get(key.path) else { continue };
            if key.section() != section {
                section = key.section();
                text += &format!("\n[{section}]\n");
            }
            text += &format!("{} = {}  # {origin}\n", key.name(), shown(key, value));
        }
        text
    }
}

fn environment_of(values: &BTreeMap<&'static str, (Value, Origin)>) -> Environment {
    values.get("environment").and_then(|(value, _)| value.as_str()?.parse().ok()).unwrap_or_default()
}

fn shown(key: &Key, value: &Value) -> String {
    match value {
        Value::String(secret) if key.secret => Value::String(text::redacted(secret)).to_string(),
        Value::Array(secrets) if key.secret => {
            let redacted = |secret: &Value| Value::String(text::redacted(secret.as_str().unwrap_or_default()));
            Value::Array(secrets.iter().map(redacted).collect()).to_string()
        }
        _ => value.to_string(),
    }
}

fn read_file(path: &Path) -> Result<Vec<Said>, String> {
    let shown = path.display();
    let source = std::fs::read_to_string(path).map_err(|error| {
        format!("{shown}: can not be read: {error}; `ciro-coordinator generate-config` writes an example")
    })?;
    let syntax = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(&source, span.start));
        format!("{shown}:{line}: not valid TOML: {}", error.message())
    };
    let table: Table = toml::from_str(&source).map_err(syntax)?;
    let spans = DeTable::parse(&source).map_err(syntax)?;
    let mut lines = BTreeMap::new();
    note_lines("", spans.get_ref(), &source, &mut lines);
    let mut said = vec![];
    flatten("", &table, &mut |key, value| {
        let line = lines.get(&key).copied().unwrap_or(1);
        let origin = Origin::File { path: path.to_owned(), line };
        said.push((line, Said { path: key, value: Spoken::Value(value.clone()), origin }));
    });
    said.sort_by_key(|(line, _)| *line);
    Ok(said.into_iter().map(|(_, said)| said).collect())
}

fn line_of(source: &str, offset: usize) -> usize {
    source.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

fn note_lines(parent: &str, table: &DeTable<'_>, source: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = join(parent, key.get_ref());
        lines.insert(path.clone(), line_of(source, key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            note_lines(&path, inner, source, lines);
        }
    }
}

/// Calls `leaf` for everything that is not a section.
fn flatten(parent: &str, table: &Table, leaf: &mut impl FnMut(String, &Value)) {
    for (key, value) in table {
        let path = join(parent, key);
        match value {
            Value::Table(inner) if is_section(&path) => flatten(&path, inner, leaf),
            _ => leaf(path, value),
        }
    }
}

fn is_section(path: &str) -> bool {
    SECTIONS.iter().any(|(name, _)| *name == path)
}

/// `CIRO__SECTION__KEY`, in any order the process has them.
fn variables(all: &[(String, String)]) -> Vec<Said> {
    let mut ours: Vec<Said> = all
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix("CIRO__")?.to_lowercase().replace("__", ".");
            let origin = Origin::Variable(name.clone());
            Some(Said { path, value: Spoken::Text(value.clone()), origin })
        })
        .collect();
    ours.sort_by(|a, b| a.path.cmp(&b.path));
    ours
}

fn flags(sources: &Sources) -> Vec<Said> {
    let environment = sources.environment.map(|environment| Said {
        path: "environment".to_owned(),
        value: Spoken::Text(environment.to_string()),
        origin: Origin::Flag("--environment".to_owned()),
    });
    let set = sources.flags.iter().map(|(path, value)| Said {
        path: path.clone(),
        value: Spoken::Text(value.clone()),
        origin: Origin::Flag(format!("--set {path}")),
    });
    environment.into_iter().chain(set).collect()
}

/// The key and its value, or what is wrong and what would be right.
fn accept(path: &str, spoken: Spoken, origin: &Origin) -> Result<(&'static Key, Value), String> {
    let key = schema::find(path).ok_or_else(|| format!("{origin}: {}", unknown(path)))?;
    let value = match spoken {
        Spoken::Value(value) => value,
        Spoken::Text(text) => read_text(key.kind, &text),
    };
    match fits(key.kind, &value) {
        Ok(()) => Ok((key, value)),
        // Of a list it names the item.
        Err(_) if key.secret && value.is_array() => Err(format!("{origin}: {path}: an item is not what is expected")),
        Err(expected) => Err(format!("{origin}: {path} = {}: {expected}", shown_refused(key, &value))),
    }
}

/// A refused secret is not shown at all: it may not even be a URL.
fn shown_refused(key: &Key, value: &Value) -> String {
    if key.secret { "(hidden)".to_owned() } else { value.to_string() }
}

fn unknown(path: &str) -> String {
    if is_section(path) {
        return format!("{path} is a section: write [{path}] and its keys below");
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    let nearest = KEYS
        .iter()
        .map(|key| (farness(path, last, key), key.path))
        .min()
        .filter(|(edits, _)| *edits <= (last.len() / 3).max(2));
    match nearest {
        Some((_, nearest)) => format!("unknown key {path}; did you mean {nearest}?"),
        None => format!("unknown key {path}; `ciro-coordinator generate-config` writes a file with all keys"),
    }
}

/// How unlikely it is that `path`, whose last part is `last`, was meant to be `key`.
fn farness(path: &str, last: &str, key: &Key) -> usize {
    let edits = text::distance(path, key.path).min(text::distance(last, key.name()));
    let part_of_it = path.len() > last.len() && key.path.starts_with(path);
    if part_of_it { edits.min(1) } else { edits }
}

/// Text that does not read as the kind asks stays text, and is refused as such.
fn read_text(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Bool => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
        Kind::Integer { .. } => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        Kind::Text(_) => Value::String(text.to_owned()),
        Kind::List(_) if text.trim_start().starts_with('[') => literal(text),
        Kind::List(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
    }
}

fn literal(text: &str) -> Value {
    let table = toml::from_str::<Table>(&format!("x = {text}")).ok();
    table.and_then(|mut table| table.remove("x")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn fits(kind: Kind, value: &Value) -> Result<(), String> {
    match (kind, value) {
        (Kind::Bool, Value::Boolean(_)) => Ok(()),
        (Kind::Bool, _) => Err("expected true or false".to_owned()),
        (Kind::Integer { min, max }, Value::Integer(n)) if (min..=max).contains(n) => Ok(()),
        (Kind::Integer { min, max }, _) => Err(format!("expected a whole number from {min} to {max}")),
        (Kind::Text(rule), Value::String(text)) => rule(text).map_err(str::to_owned),
        (Kind::Text(_), _) => Err("expected a text in quotes".to_owned()),
        (Kind::List(rule), Value::Array(items)) => items.iter().try_for_each(|item| match item.as_str() {
            Some(text) => rule(text).map_err(|expected| format!("{text:?}: {expected}")),
            None => Err("expected a list of texts".to_owned()),
        }),
        (Kind::List(_), _) => Err("expected a list, e.g. [\"a\", \"b\"]".to_owned()),
    }
}
