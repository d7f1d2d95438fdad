//! What the node says about itself: logs, metrics, and the panic hook that aborts.

pub mod metrics;
