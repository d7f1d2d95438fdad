//! Plans are made of states that things happened to; the duty runs against a node of its own.

mod fixture;
mod plan;
