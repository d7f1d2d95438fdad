//! Plans are made of states that things happened to; the duty runs against a node of its own.

mod bench;
mod fixture;
mod plan;
mod stories;
