//! What is written is looked at byte for byte; the duty runs against a broker and a log of its own.

mod delivery;
mod exactly;
mod fixture;
mod letters;
mod records;
mod refused;
