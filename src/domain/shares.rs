//! Each client's share of the awards: start-time fair queueing.
//!
//! Virtual time counts awards. A client's `pass` is the virtual time at which
//! its next job is due; an award costs the client one, wherever it stands, and
//! moves virtual time up to where the client stood. Who comes new starts at the
//! present, so nobody saves up turns by being away, and who was passed over
//! because no worker fitted does not get more than a slice of them back.
//!
//! A client is who the job says pays for it: `client_address`. Jobs without one
//! are one client together. A client is known as long as it has a job that has
//! not ended, so there are never more of them than jobs in the backlog.
//!
//! Only `pass` is state. The counts beside it follow from the jobs and are
//! never stored, like everything in [`super::index`], which keeps them.

use sha2::{Digest as _, Sha256};

use super::cow::Map;
use super::job::JobSpec;

/// Awards within which clients are even: among them priority decides.
pub(super) const SLICE: u64 = 16;

/// A client, by a digest of its address. 0: the jobs that name none.
pub(super) type Client = u64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    clients: Map<Client, Share>,
    /// Virtual time.
    now: u64,
    /// Awards ever made.
    awards: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    pass: u64,
    /// Jobs that have not ended.
    jobs: u32,
    /// Classes of requirements among its open jobs.
    classes: u32,
}

pub(super) fn client(spec: &JobSpec) -> Client {
    let Some(address) = spec.client_address.as_deref() else { return 0 };
    let digest: [u8; 32] = Sha256::digest(address.as_bytes()).into();
    digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Where the next award of a client with `pass` stands. Who was passed over catches up within the present slice only.
pub(super) fn start(pass: u64, now: u64) -> u64 {
    pass.max(now / SLICE * SLICE)
}

impl Shares {
    /// What was stored: counts are 0 until the jobs are counted again.
    pub(super) fn from_parts(now: u64, awards: u64, passes: Map<Client, u64>) -> Self {
        let mut clients = Map::default();
        for (client, pass) in passes.iter() {
            clients.insert(*client, Share { pass: *pass, ..Share::default() });
        }
        Self { clients, now, awards }
    }

    pub(super) fn passes(&self) -> impl Iterator<Item = (Client, u64)> {
        self.clients.iter().map(|(client, share)| (*client, share.pass))
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn awards(&self) -> u64 {
        self.awards
    }

    /// Whether every client has a job.
    pub(super) fn are_used(&self) -> bool {
        self.clients.iter().all(|(_, share)| share.jobs > 0)
    }

    /// When the client's next job is due.
    pub(super) fn pass(&self, client: Client) -> u64 {
        self.clients.get(&client).map_or(self.now, |share| share.pass)
    }

    /// Classes of requirements among the client's open jobs.
    pub(super) fn classes(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, |share| share.classes as usize)
    }

    /// The client has one more job that has not ended.
    pub(super) fn join(&mut self, client: Client) {
        match self.clients.get_mut(&client) {
            Some(share) => share.jobs = share.jobs.saturating_add(1),
            None => drop(self.clients.insert(client, Share { pass: self.now, jobs: 1, classes: 0 })),
        }
    }

    /// One job of the client has ended.
    pub(super) fn leave(&mut self, client: Client) {
        let Some(share) = self.clients.get_mut(&client) else { return };
        share.jobs = share.jobs.saturating_sub(1);
        if share.jobs == 0 {
            self.clients.remove(&client);
        }
    }

    pub(super) fn count_class(&mut self, client: Client, more: bool) {
        let Some(share) = self.clients.get_mut(&client) else { return };
        share.classes = if more { share.classes.saturating_add(1) } else { share.classes.saturating_sub(1) };
    }

    /// One of the client's jobs was awarded. Returns the slices it was in, and is in.
    pub(super) fn charge(&mut self, client: Client) -> (u64, u64) {
        self.awards = self.awards.saturating_add(1);
        let now = self.now;
        let Some(share) = self.clients.get_mut(&client) else { return (0, 0) };
        let was = share.pass;
        let start = start(was, now);
        share.pass = start.saturating_add(1);
        self.now = now.max(start);
        (was / SLICE, share.pass / SLICE)
    }
}
