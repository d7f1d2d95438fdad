//! Golden calldata.
