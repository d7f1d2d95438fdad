//! The domain under test: stories, properties, and damaged snapshots.

mod clearing;
mod fixture;
mod golden;
mod market;
mod properties;
mod snapshots;
mod votes;
