//! Where reading begins, from what the log says and what the broker has.

use crate::domain::kafka::Partition;
use crate::kafka::{Marks, Start};

/// Where a partition is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    At(u64),
    /// The broker does not have what comes next.
    OutOfRange {
        next: u64,
        low: u64,
        high: u64,
    },
}

/// `next`: what the log says; `None`: it was never read. `begun`: others of the topic were.
///
/// A partition that came later begins with its first record, whatever the
/// configuration says of those that were there: between its making and our
/// finding it somebody may have written to it.
pub(super) fn begin(next: Option<u64>, marks: &Marks, from: Start, begun: bool) -> Begin {
    let Marks { low, high, .. } = *marks;
    match (next, from) {
        (Some(next), _) if (low..=high).contains(&next) => Begin::At(next),
        (Some(next), _) => Begin::OutOfRange { next, low, high },
        (None, Start::Latest) if !begun => Begin::At(high),
        (None, _) => Begin::At(low),
    }
}

/// What people are told of a partition that can not be read.
pub(super) fn out_of_range(partition: &Partition, next: u64, low: u64, high: u64) -> String {
    let Partition { topic, number } = partition;
    format!("{topic}/{number} has offsets {low} to {high}, and {next} would be next: seek to where intake is to go on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(low: u64, high: u64) -> Marks {
        Marks { partition: Partition { topic: "jobs".into(), number: 0 }, low, high }
    }

    #[test]
    fn the_log_says_where_to_go_on_and_is_never_overruled() {
        for from in [Start::Earliest, Start::Latest] {
            assert_eq!(begin(Some(5), &marks(5, 9), from, true), Begin::At(5));
            assert_eq!(begin(Some(9), &marks(5, 9), from, true), Begin::At(9), "all was read");
            let (low, high) = (5, 9);
            assert_eq!(begin(Some(4), &marks(5, 9), from, true), Begin::OutOfRange { next: 4, low, high });
            assert_eq!(begin(Some(10), &marks(5, 9), from, true), Begin::OutOfRange { next: 10, low, high });
        }
    }

    #[test]
    fn a_partition_never_read_begins_where_the_configuration_says_unless_it_came_later() {
        assert_eq!(begin(None, &marks(5, 9), Start::Earliest, false), Begin::At(5));
        assert_eq!(begin(None, &marks(5, 9), Start::Latest, false), Begin::At(9));
        assert_eq!(begin(None, &marks(5, 9), Start::Latest, true), Begin::At(5));
    }
}
