//! The domain under test: stories, properties, and damaged snapshots.

mod callbacks;
mod chain;
mod clearing;
mod fixture;
mod golden;
mod kafka;
mod lost;
mod market;
mod money;
mod properties;
mod queue;
mod snapshots;
mod votes;
