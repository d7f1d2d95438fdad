//! What was released of the schema others build against stays as it is.
//!
//! `proto/kafka.fields` lists every field and enum value that was ever released.
//! What is in it must be in the schema, unchanged; what is new is appended to it
//! by hand, when it is released.

use std::collections::BTreeSet;

/// As the schema declares it now.
const DECLARED: &str = include_str!(concat!(env!("OUT_DIR"), "/kafka.fields"));
const RELEASED: &str = include_str!("../../proto/kafka.fields");

/// What of `released` is no longer in `declared`, and what of `declared` was never released.
fn differences<'a>(released: &'a str, declared: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let [released, declared]: [BTreeSet<&str>; 2] =
        [released, declared].map(|text| text.lines().filter(|line| !line.starts_with('#')).collect());
    (released.difference(&declared).copied().collect(), declared.difference(&released).copied().collect())
}

#[test]
fn no_released_field_changes_its_number_type_or_name() {
    let (broken, new) = differences(RELEASED, DECLARED);
    assert_eq!(broken, [""; 0], "released in ciro.kafka.v1, and no longer so: make it ciro.kafka.v2 instead");
    assert_eq!(new, [""; 0], "new in ciro.kafka.v1: append these lines to proto/kafka.fields");
}

#[test]
fn a_changed_number_type_name_or_presence_is_found() {
    let released = "Job.type = 1 plain string\n";
    for changed in ["Job.type = 2 plain string", "Job.type = 1 plain bytes", "Job.kind = 1 plain string", ""] {
        assert_eq!(differences(released, changed).0, ["Job.type = 1 plain string"], "{changed}");
    }
    assert_eq!(differences(released, "Job.type = 1 optional string").0.len(), 1);
    assert_eq!(differences(released, released), (vec![], vec![]));
}
