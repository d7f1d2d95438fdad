//! An ordered map whose clone is cheap: what the state keeps its records in.
//!
//! Entries live in sorted chunks of at most [`CHUNK`] behind reference counts.
//! A clone shares every chunk; the first change to a shared chunk copies that
//! chunk only. So a frozen view of hundreds of thousands of jobs costs some
//! thousand reference counts, and neither it nor `apply` pays for the rest.
//!
//! Invariants
//!
//! * A chunk is never empty, its keys ascend, and all lie in the half-open
//!   range from its own bound to the next chunk's bound.
//! * How entries are cut into chunks is not observable: equality and iteration
//!   see keys and values only.
//!
//! Absent: anything that depends on hashing or addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

/// Entries per chunk. Larger makes clones cheaper and the first write after one dearer.
const CHUNK: usize = 128;

/// Below this a chunk is joined with its right neighbour, if both fit into three quarters of a chunk.
const SPARSE: usize = CHUNK / 4;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// Keys without values.
pub(super) type Set<K> = Map<K, ()>;

#[derive(Clone)]
pub(super) struct Map<K, V> {
    chunks: BTreeMap<K, Chunk<K, V>>,
    len: usize,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { chunks: BTreeMap::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let (_, chunk) = self.chunks.range(..=key).next_back()?;
        let at = find(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value for changing. Copies its chunk if a clone shares it, so look with [`Self::get`] first.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, chunk) = self.chunks.range_mut(..=key).next_back()?;
        let at = find(chunk, key).ok()?;
        Arc::make_mut(chunk).get_mut(at).map(|(_, value)| value)
    }

    /// Returns the value that was there before.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(bound) = self.floor(&key) else {
            self.insert_first(key, value);
            return None;
        };
        let chunk = Arc::make_mut(self.chunks.get_mut(&bound)?);
        match find(chunk, &key) {
            Ok(at) => return chunk.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) if chunk.len() < CHUNK => chunk.insert(at, (key, value)),
            // Keys mostly ascend: a full last chunk stays full.
            Err(at) if at == chunk.len() => {
                self.chunks.insert(key.clone(), Arc::new(vec![(key, value)]));
            }
            Err(at) => {
                chunk.insert(at, (key, value));
                let upper = chunk.split_off(chunk.len() / 2);
                self.adopt(upper);
            }
        }
        self.len += 1;
        None
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let bound = self.floor(key)?;
        let shared = self.chunks.get_mut(&bound)?;
        let at = find(shared, key).ok()?;
        let chunk = Arc::make_mut(shared);
        let (_, value) = chunk.remove(at);
        let left = chunk.len();
        self.len -= 1;
        if left == 0 {
            self.chunks.remove(&bound);
        } else if left < SPARSE {
            self.join_right(&bound);
        }
        Some(value)
    }

    /// Entries in key order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.values().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// Entries with keys above `cursor`, or all, in key order.
    pub(super) fn after(&self, cursor: Option<K>) -> impl Iterator<Item = (&K, &V)> {
        let start = match cursor.as_ref().and_then(|key| self.floor(key)) {
            Some(bound) => Bound::Included(bound),
            None => Bound::Unbounded,
        };
        self.chunks
            .range((start, Bound::Unbounded))
            .flat_map(move |(_, chunk)| {
                let from = cursor.as_ref().map_or(0, |cursor| chunk.partition_point(|(key, _)| key <= cursor));
                chunk.get(from..).unwrap_or_default()
            })
            .map(|(key, value)| (key, value))
    }

    /// The entry with the lowest key.
    pub(super) fn first(&self) -> Option<(&K, &V)> {
        let (_, chunk) = self.chunks.first_key_value()?;
        chunk.first().map(|(key, value)| (key, value))
    }

    /// How many keys are at or above `from` and below `to`. Looks into no more than two chunks.
    pub(super) fn count(&self, from: &K, to: &K) -> usize {
        if from >= to {
            return 0;
        }
        let start = self.floor(from).map_or(Bound::Unbounded, Bound::Included);
        let chunks = self.chunks.range((start, Bound::Excluded(to.clone()))).map(|(_, chunk)| chunk);
        let within = |chunk: &Chunk<K, V>| match (chunk.first(), chunk.last()) {
            (Some((first, _)), Some((last, _))) if first >= from && last < to => chunk.len(),
            _ => {
                let below = |bound: &K| chunk.partition_point(|(key, _)| key < bound);
                below(to).saturating_sub(below(from))
            }
        };
        chunks.map(within).sum()
    }

    /// The bound of the chunk that holds `key`, if it is anywhere.
    fn floor(&self, key: &K) -> Option<K> {
        self.chunks.range(..=key).next_back().map(|(bound, _)| bound.clone())
    }

    /// Inserts a key below every bound.
    fn insert_first(&mut self, key: K, value: V) {
        self.len += 1;
        let roomy = self.chunks.first_key_value().is_some_and(|(_, chunk)| chunk.len() < CHUNK);
        let chunk = match self.chunks.pop_first() {
            Some((_, mut chunk)) if roomy => {
                Arc::make_mut(&mut chunk).insert(0, (key.clone(), value));
                chunk
            }
            Some((bound, full)) => {
                self.chunks.insert(bound, full);
                Arc::new(vec![(key.clone(), value)])
            }
            None => Arc::new(vec![(key.clone(), value)]),
        };
        self.chunks.insert(key, chunk);
    }

    fn adopt(&mut self, entries: Vec<(K, V)>) {
        if let Some((bound, _)) = entries.first() {
            self.chunks.insert(bound.clone(), Arc::new(entries));
        }
    }

    fn join_right(&mut self, bound: &K) {
        let Some(left) = self.chunks.get(bound).map(|chunk| chunk.len()) else { return };
        let beyond = (Bound::Excluded(bound), Bound::Unbounded);
        let Some((next, right)) = self.chunks.range(beyond).next() else { return };
        if left + right.len() > CHUNK - SPARSE {
            return;
        }
        let next = next.clone();
        let Some(right) = self.chunks.remove(&next) else { return };
        if let Some(chunk) = self.chunks.get_mut(bound) {
            Arc::make_mut(chunk).extend(right.iter().cloned());
        }
    }
}

impl<K: Ord + Clone> Set<K> {
    pub(super) fn add(&mut self, key: K) {
        self.insert(key, ());
    }

    pub(super) fn keys_after(&self, cursor: Option<K>) -> impl Iterator<Item = &K> {
        self.after(cursor).map(|(key, ())| key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, ())| key)
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq> Eq for Map<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn find<K: Ord, V>(chunk: &[(K, V)], key: &K) -> Result<usize, usize> {
    // Most keys are newer than all others: look at the end first.
    match chunk.last() {
        Some((last, _)) if last < key => Err(chunk.len()),
        _ => chunk.binary_search_by(|(probe, _)| probe.cmp(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{BTreeMap, CHUNK, Map};

    fn check(map: &Map<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter()));
        assert!(map.chunks.values().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
        assert!(map.chunks.iter().all(|(bound, chunk)| chunk.iter().all(|(key, _)| key >= bound)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn behaves_like_a_btree_map_and_clones_do_not_see_changes(
            steps in prop::collection::vec((any::<bool>(), 0u16..900, any::<u32>()), 1..3_000),
            freeze in any::<prop::sample::Index>(),
        ) {
            let mut map = Map::default();
            let mut model = BTreeMap::new();
            let mut frozen = None;
            for (at, (insert, key, value)) in steps.iter().enumerate() {
                if at == freeze.index(steps.len()) {
                    frozen = Some((map.clone(), model.clone()));
                }
                if *insert {
                    prop_assert_eq!(map.insert(*key, *value), model.insert(*key, *value));
                } else {
                    prop_assert_eq!(map.remove(key), model.remove(key));
                }
                prop_assert_eq!(map.get(key), model.get(key));
                prop_assert_eq!(map.first(), model.first_key_value());
                prop_assert!(map.after(Some(*key)).eq(model.range(key + 1..)));
                let (from, to) = (*key, u16::try_from(*value % 1_000).unwrap());
                prop_assert_eq!(map.count(&from, &to), if from < to { model.range(from..to).count() } else { 0 });
            }
            check(&map, &model);
            if let Some((map, model)) = frozen {
                check(&map, &model);
            }
        }
    }

    #[test]
    fn ascending_keys_fill_their_chunks() {
        let mut map = Map::default();
        for key in 0..10_000u32 {
            map.insert(key, ());
        }
        assert_eq!(map.chunks.len(), 10_000usize.div_ceil(CHUNK));
    }
}
