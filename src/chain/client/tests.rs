//! Against a node.
