//! Snapshots that are not what they should be.

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use sha2::{Digest as _, Sha256};

use super::fixture::{bytes, check, complete, job, register, reread, spec, submit, worker};
use crate::domain::apply::Position;
use crate::domain::command::{Command, Record};
use crate::domain::ids::Price;
use crate::domain::job::JobSpec;
use crate::domain::journal::Sink;
use crate::domain::snapshot::Error;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// A state with something in every section, and a frame that is full.
fn populated() -> State {
    let mut state = State::default();
    let (first, second) = (job(1), job(2));
    let assign =
        |job| Command::Assign { job, attempt: 1, worker: worker(1), price: Price(5), lease_ms: 30_000, evidence: None };
    let commands = vec![
        register(worker(1), 2),
        register(worker(2), 1),
        submit(first, spec(b"one"), b"one"),
        submit(second, spec(&[2; 100_000]), &[2; 100_000]),
        submit(job(3), spec(b"three"), b"three"),
        assign(first),
        assign(second),
        submit(job(4), JobSpec { redundancy: 2, ..spec(b"four") }, b"four"),
        Command::Assign {
            job: job(4),
            attempt: 1,
            worker: worker(2),
            price: Price(5),
            lease_ms: 30_000,
            evidence: None,
        },
        complete(job(4), 1, worker(2), b"vote"),
        complete(first, 1, worker(1), b"done"),
        submit(job(5), JobSpec { callback_url: Some("https://a/x".into()), ..spec(b"five") }, b"five"),
        Command::Cancel { job: job(5), reason: "no longer wanted".to_owned() },
        Command::Delivered { sink: Sink::Kafka, through: 3 },
    ];
    let replies = state.apply(Position { index: 1, term: 1 }, &Record { at: Timestamp(1_000), commands });
    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    check(&state);
    state
}

fn read(bytes: &[u8]) -> Result<State, Error> {
    State::read_from(&mut &*bytes)
}

/// Makes the checksum right for whatever was changed.
fn seal(bytes: &mut [u8]) {
    let end = bytes.len() - 32;
    let digest = Sha256::digest(&bytes[..end - 5]);
    bytes[end..].copy_from_slice(&digest);
}

#[test]
fn everything_survives() {
    let state = populated();
    let read = reread(&state);
    check(&read);
    assert_eq!(read.hash(), state.hash());
    assert_eq!(read.output(job(1)).map(|output| &output[..]), Some(&b"done"[..]));
    assert_eq!(read.payload(job(2)).map(|payload| payload.len()), Some(100_000));
    assert_eq!(read.journal().cursor(Sink::Kafka), Some(3));
}

#[test]
fn what_follows_the_end_is_left_alone() {
    let mut written = bytes(&populated());
    written.extend_from_slice(b"next");
    let mut input = written.as_slice();
    State::read_from(&mut input).unwrap();
    assert_eq!(input, b"next");
}

#[test]
fn another_version_is_named() {
    let mut written = bytes(&populated());
    written[11] = 99;
    let error = read(&written).unwrap_err();
    assert_eq!(error.to_string(), "snapshot has format 99, this build reads 9");
}

#[test]
fn every_truncation_is_damage() {
    let written = bytes(&populated());
    let ends = (0..2_000.min(written.len())).chain((written.len() - 2_000)..written.len());
    for end in ends {
        assert!(matches!(read(&written[..end]), Err(Error::Damaged(_))), "cut at {end}");
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut written = bytes(&State::default());
    written[13..17].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(read(&written), Err(Error::Damaged(what)) if what == "a frame of 4294967295 bytes"));
}

/// A reader whose disk fails is not a damaged snapshot.
#[test]
fn a_failing_reader_is_named_as_such() {
    struct Failing;
    impl std::io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("disk on fire"))
        }
    }
    assert!(matches!(State::read_from(&mut Failing), Err(Error::Io(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_is_found(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut written = bytes(&populated());
        let at = at.index(written.len());
        written[at] ^= flip;
        assert!(matches!(read(&written), Err(Error::Damaged(_) | Error::Version { .. })));
    }

    /// With a right checksum only the contents speak; they are refused, or make a sound state.
    #[test]
    fn forged_contents_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut state = populated();
        state.payloads.remove(&job(2));
        state.jobs.remove(&job(2));
        let mut written = bytes(&state);
        for (at, byte) in changes {
            // Behind magic and version, before the end frame.
            let at = 12 + at.index(written.len() - 12 - 37);
            written[at] = byte;
        }
        seal(&mut written);
        if let Ok(read) = read(&written) {
            reread(&read);
        }
    }

    #[test]
    fn noise_is_damage(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        assert!(matches!(read(&noise), Err(Error::Damaged(_))));
    }
}
