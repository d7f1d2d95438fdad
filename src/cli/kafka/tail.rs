//! `kafka tail`: the records of a topic as they come, decoded as far as they can be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::args::{From, Tail};
use super::broker::{Session, failed};
use super::records;
use crate::cli::failure::{Failure, Kind};
use crate::cli::{Remote, output};
use crate::clock;
use crate::domain::kafka::Partition;
use crate::kafka::{Error, Reader, Record, Survey};

/// Records and bytes read at once.
const READ_RECORDS: usize = 500;
const READ_BYTES: usize = 4 << 20;

/// Longest wait of one read.
const WAIT: Duration = Duration::from_secs(1);

/// Without a broker for so long it is given up.
const DOWN_LIMIT: Duration = Duration::from_secs(30);

pub async fn run(args: Tail, remote: &Remote) -> Result<(), Failure> {
    let session = Session::new(&args.broker)?;
    let topic = args.topic.clone().unwrap_or_else(|| session.options().topics.results.clone());
    let survey = session.find(&topic, remote.patience()).await?;
    let mut reader = session.reader()?;
    let mut next = begin(&survey, args.from);
    assign(&mut reader, &next).await?;
    let give_up = args.timeout.map(|secs| clock::instant() + Duration::from_secs(secs.min(86_400 * 365)));
    let job_topic = session.options().topics.jobs.clone();
    let (mut seen, mut heard) = (0, clock::instant());
    while args.count.is_none_or(|count| seen < count) {
        let left = give_up.map_or(WAIT, |give_up| give_up.saturating_duration_since(clock::instant()));
        if left.is_zero() {
            return ended(&args, seen);
        }
        match reader.read(wanted(&args, seen), READ_BYTES, left.min(WAIT)).await {
            Ok(records) => {
                heard = clock::instant();
                for record in records {
                    next.insert(record.partition.clone(), record.offset + 1);
                    show(&record, &job_topic, remote)?;
                    seen += 1;
                }
            }
            // Retention took what would have come next: on with what is there.
            Err(Error::OutOfRange { partition, low, .. }) => {
                next.insert(partition, low);
                assign(&mut reader, &next).await?;
            }
            Err(Error::Down(_)) if heard.elapsed() < DOWN_LIMIT => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(())
}

/// Where each partition begins.
fn begin(survey: &Survey, from: From) -> BTreeMap<Partition, u64> {
    let start = |marks: &crate::kafka::Marks| match from {
        From::Beginning => marks.low,
        From::End => marks.high,
    };
    survey.partitions.iter().map(|marks| (marks.partition.clone(), start(marks))).collect()
}

async fn assign(reader: &mut Reader, next: &BTreeMap<Partition, u64>) -> Result<(), Failure> {
    let at: Vec<(Partition, u64)> = next.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect();
    reader.assign(&at).await.map_err(|error| failed(&error))
}

/// Records to ask for: no more than are still to be shown.
fn wanted(args: &Tail, seen: u64) -> usize {
    let left = args.count.map_or(u64::MAX, |count| count - seen);
    usize::try_from(left).unwrap_or(usize::MAX).min(READ_RECORDS)
}

fn show(record: &Record, job_topic: &str, remote: &Remote) -> Result<(), Failure> {
    let shown = records::shown(record, job_topic);
    output::line(&if remote.json { shown.to_string() } else { records::line(&shown) })
}

/// The time is up: a failure only for who wanted more.
fn ended(args: &Tail, seen: u64) -> Result<(), Failure> {
    match args.count {
        Some(count) if seen < count => {
            let secs = args.timeout.unwrap_or_default();
            Err(Failure::new(Kind::Timeout, format!("{seen} of {count} records came within {secs} s")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::kafka::Marks;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Tail,
    }

    fn args(line: &[&str]) -> Tail {
        Line::parse_from(["tail"].iter().chain(line)).args
    }

    #[test]
    fn reading_begins_where_it_was_told_in_every_partition() {
        let marks = |number, low, high| Marks { partition: Partition { topic: "t".into(), number }, low, high };
        let survey = Survey { cluster_id: "c".to_owned(), partitions: vec![marks(0, 3, 9), marks(1, 0, 0)] };
        let offsets = |from| begin(&survey, from).into_values().collect::<Vec<_>>();
        assert_eq!((offsets(From::Beginning), offsets(From::End)), (vec![3, 0], vec![9, 0]));
        assert_eq!(args(&[]).from, From::End);
    }

    #[test]
    fn the_time_being_up_is_a_failure_only_for_who_counts() {
        assert!(ended(&args(&["--timeout", "1"]), 0).is_ok());
        assert!(ended(&args(&["--timeout", "1", "--count", "2"]), 2).is_ok());
        assert_eq!(ended(&args(&["--timeout", "1", "--count", "2"]), 1).unwrap_err().code(), 6);
        assert_eq!((wanted(&args(&["--count", "2"]), 1), wanted(&args(&[]), 9)), (1, READ_RECORDS));
    }
}
