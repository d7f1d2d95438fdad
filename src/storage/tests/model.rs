//! A tree does what a `BTreeMap` does, whatever the sizes.

use std::collections::BTreeMap;

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof};
use proptest::{collection, proptest};

use super::super::{Batch, Error, KEY_MAX, Tree, VALUE_MAX};
use super::{open, value};

const CHUNK: usize = 48 << 10;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A key, and the seed and length of the value to put; without them it is deleted.
type Write = (Vec<u8>, Option<(u8, usize)>);

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, u8, usize),
    Delete(Vec<u8>),
    Batch(Vec<Write>),
    Range(Vec<u8>, Option<Vec<u8>>),
    Reopen,
}

/// Few keys, close together: prefixes of each other, with bytes at both ends.
fn key() -> impl Strategy<Value = Vec<u8>> {
    collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xFF)], 0..4)
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..200usize,
        1 => CHUNK - 2..CHUNK + 2,
        1 => CHUNK..5 * CHUNK,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let write = (key(), proptest::option::weighted(0.7, (proptest::num::u8::ANY, length())));
    prop_oneof![
        8 => (key(), proptest::num::u8::ANY, length()).prop_map(|(key, seed, length)| Step::Put(key, seed, length)),
        3 => key().prop_map(Step::Delete),
        3 => collection::vec(write, 0..8).prop_map(Step::Batch),
        4 => (key(), proptest::option::of(key())).prop_map(|(from, to)| Step::Range(from, to)),
        1 => Just(Step::Reopen),
    ]
}

fn both(tree: &Tree, model: &mut Model, step: Step) {
    match step {
        Step::Put(key, seed, length) => {
            tree.put(&key, &value(seed, length)).unwrap();
            model.insert(key, value(seed, length));
        }
        Step::Delete(key) => {
            tree.delete(&key).unwrap();
            model.remove(&key);
        }
        Step::Batch(writes) => {
            let mut batch = Batch::default();
            for (key, put) in writes {
                match put {
                    Some((seed, length)) => {
                        batch.put(&key, &value(seed, length));
                        model.insert(key, value(seed, length));
                    }
                    None => {
                        batch.delete(&key);
                        model.remove(&key);
                    }
                }
            }
            tree.apply(batch).unwrap();
        }
        Step::Range(from, to) => {
            let within = |key: &Vec<u8>| *key >= from && to.as_ref().is_none_or(|to| key < to);
            let expected: Vec<_> = model.iter().filter(|(key, _)| within(key)).collect();
            let forward: Vec<_> = tree.range(&from, to.as_deref()).map(Result::unwrap).collect();
            let mut backward: Vec<_> = tree.range(&from, to.as_deref()).rev().map(Result::unwrap).collect();
            backward.reverse();
            assert!(forward.iter().map(|(key, value)| (key, value)).eq(expected.iter().copied()), "scan");
            assert!(forward == backward, "scan from the end");
            let keys = tree.keys(&from, to.as_deref()).map(Result::unwrap);
            assert!(keys.eq(expected.iter().map(|(key, value)| ((*key).clone(), value.len()))), "scan of keys");
        }
        Step::Reopen => {}
    }
}

fn same(tree: &Tree, model: &Model) {
    let all: Model = tree.range(&[], None).map(Result::unwrap).collect();
    assert!(all == *model, "everything");
    assert!(tree.first().unwrap() == model.first_key_value().map(|(k, v)| (k.clone(), v.clone())), "first");
    assert!(tree.last().unwrap() == model.last_key_value().map(|(k, v)| (k.clone(), v.clone())), "last");
    for (key, value) in model {
        assert!(tree.get(key).unwrap().as_ref() == Some(value), "get {key:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_is_an_ordered_map(steps in collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new();
        let mut store = open(dir.path());
        let mut tree = store.tree("t").unwrap();
        for step in steps {
            if matches!(step, Step::Reopen) {
                drop((tree, store));
                store = open(dir.path());
                tree = store.tree("t").unwrap();
            } else {
                both(&tree, &mut model, step);
            }
        }
        same(&tree, &model);
    }
}

#[test]
fn a_shrinking_overwrite_leaves_no_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    for length in [10 * CHUNK, 10 * CHUNK - 1, 3 * CHUNK, 2 * CHUNK + 1, CHUNK, 17] {
        tree.put(b"k", &value(1, length)).unwrap();
        assert!(tree.get(b"k").unwrap().unwrap() == value(1, length));
        let chunks = if length < CHUNK { 0 } else { length.div_ceil(CHUNK) };
        assert_eq!(tree.raw_len(), 1 + chunks, "keys in sled for {length} bytes");
    }
    tree.put(b"k", &value(2, 4 * CHUNK)).unwrap();
    tree.delete(b"k").unwrap();
    assert_eq!(tree.raw_len(), 0);
}

#[test]
fn chunks_are_found_again_after_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.tree("t").unwrap().put(b"k", &value(1, 4 * CHUNK)).unwrap();
    drop(store);

    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    assert!(tree.get(b"k").unwrap().unwrap() == value(1, 4 * CHUNK));
    tree.put(b"k", b"small").unwrap();
    assert_eq!(tree.raw_len(), 1);
}

#[test]
fn sizes_at_and_above_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    let largest = vec![9; VALUE_MAX];
    tree.put(&[1; KEY_MAX], &largest).unwrap();
    assert!(tree.get(&[1; KEY_MAX]).unwrap().unwrap() == largest);
    assert_eq!(std::fs::read_dir(dir.path().join("db/blobs")).unwrap().count(), 0, "no blob files");

    assert!(matches!(tree.put(b"k", &vec![9; VALUE_MAX + 1]), Err(Error::Refused(_))));
    assert!(matches!(tree.put(&[1; KEY_MAX + 1], b""), Err(Error::Refused(_))));
    let mut batch = Batch::default();
    batch.put(b"fine", b"");
    batch.put(&[1; KEY_MAX + 1], b"");
    assert!(matches!(tree.apply(batch), Err(Error::Refused(_))));
    assert_eq!(tree.get(b"fine").unwrap(), None, "nothing of a refused batch is written");
}

#[test]
fn a_reader_never_sees_half_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tree = store.tree("t").unwrap();
    tree.put(b"k", &value(0, CHUNK)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..=60u8 {
                tree.put(b"k", &value(round, usize::from(round % 5 + 1) * CHUNK)).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = tree.get(b"k").unwrap().unwrap();
            assert!(seen == value(seen[0], seen.len()), "torn value");
            let (_, seen) = tree.range(b"", None).next().unwrap().unwrap();
            assert!(seen == value(seen[0], seen.len()), "torn value in a scan");
        }
    });
}

#[test]
fn trees_are_separate_listed_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let a = store.tree("a").unwrap();
    let b = store.tree("b").unwrap();
    a.put(b"k", &value(1, 2 * CHUNK)).unwrap();
    b.put(b"k", b"b").unwrap();
    assert_eq!(store.tree_names(), ["a", "b"]);

    store.drop_tree("a").unwrap();
    store.drop_tree("never was").unwrap();
    assert_eq!(store.tree_names(), ["b"]);
    assert!(matches!(a.put(b"k", b"late"), Err(Error::Refused(_))), "a dropped tree takes no writes");
    assert_eq!(store.tree("a").unwrap().get(b"k").unwrap(), None, "a new tree of that name is empty");
    assert_eq!(b.get(b"k").unwrap().unwrap(), b"b");
}
