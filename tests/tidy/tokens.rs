//! Rust source as words and marks, for the tidy test.
//!
//! Comments are dropped, strings and characters become `0`. No syntax tree: the
//! checks need paths and braces only.

#[derive(Debug)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

impl Token {
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

/// The text at `at`, or nothing beyond the end.
pub fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// Splits Rust source into words and marks, without comments and literals.
pub fn tokens(source: &str) -> Vec<Token> {
    split(&blank(source))
}

fn split(blanked: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    for (number, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token { line: number + 1, text: rest[..length].to_owned() });
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// Replaces comments with spaces, and strings and characters with `0`, keeping the lines.
fn blank(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let (length, code) = next_piece(rest);
        let piece = &rest[..length];
        if code {
            out.push_str(piece);
        } else {
            let literal = !piece.starts_with("//") && !piece.starts_with("/*");
            out.push_str(if literal { " 0 " } else { " " });
            out.extend(piece.chars().filter(|c| *c == '\n'));
            if literal && piece.contains('\n') {
                out.push_str(" 0 ");
            }
        }
        rest = &rest[length..];
    }
    out
}

/// The length of the next piece of source, and whether it is code.
fn next_piece(rest: &str) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(length) = raw_string(rest) {
        return (length, false);
    }
    if let Some(body) = rest.strip_prefix('"') {
        return (1 + quoted(body, '"'), false);
    }
    if let Some(body) = rest.strip_prefix('\'') {
        // A character ends soon; a lifetime has no closing quote there.
        let mut chars = body.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), _) => return (1 + quoted(body, '\''), false),
            (Some(c), Some('\'')) => return (2 + c.len_utf8(), false),
            _ => {}
        }
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (word.max(rest.chars().next().map_or(1, char::len_utf8)), true)
}

fn quoted(body: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == end => return at + 1,
            _ => {}
        }
    }
    body.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let start = ["r", "br", "cr"].into_iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let body = start[hashes..].strip_prefix('"')?;
    let mut close = String::from("\"");
    for _ in 0..hashes {
        close.push('#');
    }
    let opened = rest.len() - body.len();
    Some(body.find(&close).map_or(rest.len(), |at| opened + at + close.len()))
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}
