//! Plans are made of states that things happened to; the duty runs against a node of its own.

mod bench;
pub(in crate::leader::settle) mod fixture;
mod money;
mod plan;
mod stories;
