//! Feature levels: what the members of a cluster may write and say.
//!
//! A cluster has one level, a number in its state, and every build knows the
//! levels up to one of its own. What a level adds — a command, a field, another
//! layout — is used only once the state is at that level, and the level is
//! raised by an operator, through the log, when every member knows the next
//! one. Until then members of the build before take part and any member may go
//! back to it; from then on a build that does not know the level refuses to go
//! on, instead of misreading.
//!
//! Rules for whoever changes a format: what [`FIRST`] to the level before wrote
//! stays readable for ever; a new command is a new variant at the end, a new
//! field a new layout with a number of its own.
//!
//! Builds for tests know one level more, [`TRIAL`], so that the way between
//! levels is walked before there is a second one.

/// The level of a new cluster.
pub const FIRST: u32 = 1;

/// The newest level that this build knows.
#[cfg(not(any(test, debug_assertions)))]
pub const NEWEST: u32 = FIRST;

/// The newest level that this build knows.
#[cfg(any(test, debug_assertions))]
pub const NEWEST: u32 = TRIAL;

/// Adds a field to log records, a command to the end of each of them, and a section to the state.
#[cfg(any(test, debug_assertions))]
pub const TRIAL: u32 = FIRST + 1;

/// What [`TRIAL`] adds to the state: the commands of that level, and the sum of what they carried.
#[cfg(any(test, debug_assertions))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trial {
    pub commands: u64,
    pub sum: u64,
}
