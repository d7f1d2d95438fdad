//! Records as they go in and out, byte for byte.

use super::Marks;
use crate::domain::kafka::{Header, Partition};

/// One that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: Partition,
    pub offset: u64,
    /// The record's own time, ms since 1970.
    pub timestamp_ms: Option<u64>,
    /// `None` is not the same as empty, here and in `value`.
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// Headers that are not in `headers`, because their names are no UTF-8.
    pub unreadable_headers: usize,
}

impl Record {
    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        size(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }
}

/// One to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    /// `None`: by the key, with the hash that Java clients use; without a key, any.
    pub partition: Option<u32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl Message {
    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        size(self.key.as_deref(), self.value.as_deref(), &self.headers)
    }
}

/// Where a record is in its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

/// What a topic has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Of the Kafka cluster that answered.
    pub cluster_id: String,
    /// By number.
    pub partitions: Vec<Marks>,
}

fn size(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
    let headers: usize =
        headers.iter().map(|header| header.name.len() + header.value.as_ref().map_or(0, Vec::len)).sum();
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers
}
