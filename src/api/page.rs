//! Lists in pages: at most `limit` items, and where to go on.

use super::params::{Kind, Param};
use super::request::Request;

const LIMIT_USUAL: u64 = 50;
const LIMIT_MAX: u64 = 1_000;

/// The parameters of every list; `bytes` is the length of what its cursor stands for.
pub fn params(bytes: usize) -> [Param; 2] {
    [
        Param::new("limit", Kind::Integer { min: 1, max: LIMIT_MAX }, "Most items of the answer; 50 by default."),
        Param::new("cursor", Kind::Cursor(bytes), "The next_cursor of the answer before."),
    ]
}

/// A page being filled: items in order, and the key of the last.
pub struct Page<T, const N: usize> {
    limit: usize,
    items: Vec<T>,
    last: [u8; N],
    more: bool,
}

impl<T, const N: usize> Page<T, N> {
    pub fn of(request: &Request) -> Self {
        let limit = request.integer("limit").unwrap_or(LIMIT_USUAL);
        Self { limit: usize::try_from(limit).unwrap_or(1), items: Vec::new(), last: [0; N], more: false }
    }

    /// Takes an item. False when the page is full: then there is more, and the item was not taken.
    pub fn push(&mut self, key: [u8; N], item: impl FnOnce() -> T) -> bool {
        if self.items.len() == self.limit {
            self.more = true;
            return false;
        }
        self.last = key;
        self.items.push(item());
        true
    }

    /// Whether no further item fits.
    pub fn is_full(&self) -> bool {
        self.items.len() == self.limit
    }

    /// An item was looked at and not wanted: the next page begins after it.
    pub fn passed(&mut self, key: [u8; N]) {
        self.last = key;
    }

    /// There is more, but not on this page.
    pub fn more(&mut self) {
        self.more = true;
    }

    /// The items, and the cursor after which the next page begins.
    pub fn finish(self) -> (Vec<T>, Option<String>) {
        (self.items, self.more.then(|| hex::encode(self.last)))
    }
}

/// The key after which to begin.
pub fn after<const N: usize>(request: &Request) -> Option<[u8; N]> {
    let mut key = [0; N];
    hex::decode_to_slice(request.text("cursor")?, &mut key).ok()?;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_without_gap_or_repeat() {
        let keys: Vec<[u8; 1]> = (0..10).map(|key| [key]).collect();
        let (mut seen, mut cursor) = (vec![], None::<String>);
        loop {
            let mut query = vec![("limit", "3".to_owned())];
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let request = Request::with_query(query);
            let start = after::<1>(&request);
            let mut page = Page::of(&request);
            for key in keys.iter().filter(|key| start.is_none_or(|start| **key > start)) {
                if !page.push(*key, || key[0]) {
                    break;
                }
            }
            let (items, next) = page.finish();
            seen.extend(items);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..10).collect::<Vec<u8>>());
    }
}
