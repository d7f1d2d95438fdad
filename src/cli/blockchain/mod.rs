//! `blockchain …`: the chain as the nodes see it.

mod show;

pub use show::{Command, run};
