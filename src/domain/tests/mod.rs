//! The domain under test: stories, properties, and damaged snapshots.

mod fixture;
mod golden;
mod market;
mod properties;
mod snapshots;
