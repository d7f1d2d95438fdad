//! Every route of the REST contract, with good and with bad input, on a single
//! node that runs as a real process on free ports.
//!
//! Each answer is also held against the node's own `/openapi.json`: a status or
//! a media type that is not documented there fails the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is the message")]
#![allow(clippy::print_stdout, reason = "a failed test shows the log of its node")]

#[path = "integration/blockchain.rs"]
mod blockchain;
#[path = "integration/callbacks.rs"]
mod callbacks;
#[path = "integration/contract.rs"]
mod contract;
#[path = "integration/explain.rs"]
mod explain;
#[path = "integration/faults.rs"]
mod faults;
#[path = "integration/jobs.rs"]
mod jobs;
#[path = "integration/kafka.rs"]
mod kafka;
#[path = "integration/members.rs"]
mod members;
#[path = "integration/node.rs"]
mod node;
#[path = "integration/raw.rs"]
mod raw;
#[path = "integration/results.rs"]
mod results;
#[path = "integration/sessions.rs"]
mod sessions;
#[path = "integration/streams.rs"]
mod streams;
#[path = "integration/views.rs"]
mod views;
#[path = "integration/wasm.rs"]
mod wasm;
#[path = "integration/workers.rs"]
mod workers;
