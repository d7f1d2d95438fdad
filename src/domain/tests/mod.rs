//! The domain under test: stories, properties, and damaged snapshots.

mod archive;
mod callbacks;
mod chain;
mod clearing;
mod fixture;
mod formats;
mod golden;
mod history;
mod kafka;
mod lost;
mod market;
mod members;
mod money;
mod properties;
mod queue;
mod restore;
pub(crate) mod sim;
mod snapshots;
mod votes;
