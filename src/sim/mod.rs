//! A seeded simulation of the cluster, without sockets, threads and real time.
//!
//! One seed is one history: three coordinators, a few workers, clients, Kafka and
//! a chain, in virtual time, with messages lost, late, doubled and overtaking;
//! nodes that crash between any two lines of a duty, are cut off, paused, deposed
//! and go on acting; clocks that jump; snapshots and restarts. After every record
//! what must hold is checked; then faults stop, and everything must come to its end.
//!
//! Real: `domain` whole (apply, snapshots, journal, books); of `leader` the
//! market's looks, rounds, auditions and awards, leases, verdicts, what is to be
//! stopped, dispatch's choice and what answers come to, the publisher's batches,
//! records and cursor, the settler's plans, its choice for each nonce and its
//! search for what reverts; `mesh::Roster`; the worker's bidder, its signatures,
//! and its desk.
//!
//! Modelled: the log ([`log`], by the contract of `consensus::Client`), the order
//! of the steps within a duty ([`leading`]), the mesh, what a worker runs and its
//! outbox ([`crew`]), Kafka ([`broker`]), intake's reader, the chain and its
//! contract ([`contract`]). Absent: HTTP, callbacks, fees and funds, arrivals by
//! the chain, `exactly_once`, membership.
//!
//! ```text
//! CIRO_SIM_SEED=17 cargo test --lib sim::tests::seeds -- --nocapture    one seed, with its trace
//! CIRO_SIM_SEEDS=100000 cargo test --lib sim::tests::seeds              more of them
//! ```

mod broker;
mod checks;
mod clients;
mod contract;
mod crew;
mod faults;
mod leading;
mod log;
mod node;
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::checks::Seen;
use self::faults::{Defect, QUIET};
use self::world::World;

/// How long after the last fault everything must have come to its end.
const END: u64 = QUIET + 400_000;

/// How a seed came out.
struct Report {
    /// Of all that happened.
    hash: u64,
    events: u64,
    /// When it was over, in milliseconds of its own time.
    end: u64,
    seen: Seen,
    lines: Vec<String>,
    /// What did not hold.
    broken: Option<String>,
}

/// Plays a seed to its end, or to where something does not hold.
fn play(seed: u64, defect: Option<Defect>, verbose: bool) -> Report {
    let mut world = World::new(seed, defect, verbose);
    let played = catch_unwind(AssertUnwindSafe(|| {
        while world.turn(END) {
            if world.now > QUIET && world.trace.events.is_multiple_of(32) && world.is_done() {
                break;
            }
        }
        assert!(world.is_done(), "not everything has come to its end:\n{}", world.left_over());
        world.check_end();
    }));
    let told = |why: Box<dyn std::any::Any + Send>| match why.downcast::<String>() {
        Ok(text) => *text,
        Err(why) => why.downcast_ref::<&str>().unwrap_or(&"something broke").to_string(),
    };
    Report {
        hash: world.trace.hash,
        events: world.trace.events,
        end: world.now,
        seen: world.checks.seen,
        lines: world.trace.lines.take().unwrap_or_default(),
        broken: played.err().map(told),
    }
}
