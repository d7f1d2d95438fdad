//! The client against a real node, and its transport against endpoints that misbehave.
//!
//! The node is starknet-devnet: `CIRO_TEST_DEVNET=PATH_OF_ITS_BINARY cargo test --lib chain:: -- --ignored`.
//! Each story starts its own.

pub(crate) mod devnet;
mod endpoint;
mod failures;
mod settling;
mod sites;
mod transport;
