//! Raising the feature level: only when every member knows the next one.

use std::time::Duration;

use crate::clock;
use crate::domain::command::Done;
use crate::domain::{Command, NodeId};

use super::client::Client;
use super::{Error, Status};

/// What came of the wish to raise the level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The cluster is at this level now.
    To(u32),
    /// No member's build knows a newer one.
    Newest(u32),
    /// These members know older levels only, or (`None`) were not reached.
    Behind { next: u32, members: Vec<(NodeId, Option<u32>)> },
}

impl Client {
    /// Raises the cluster's feature level by one, if every member knows the next one. No member is told before.
    ///
    /// A member that is replaced by an older build between the question and the commit stops, and says why.
    ///
    /// # Errors
    ///
    /// As [`Client::submit`].
    pub async fn raise_level(&self, limit: Duration) -> Result<Raised, Error> {
        let deadline = clock::instant() + limit;
        self.linearize(limit).await?;
        let status = self.status();
        let next = status.level.saturating_add(1);
        self.ask_levels(&status, limit / 2).await;
        let known = self.status().members.into_iter().map(|member| (member.id, member.newest_level));
        let behind: Vec<_> = known.filter(|(_, level)| level.is_none_or(|level| level < next)).collect();
        if behind.len() == status.members.len() && behind.iter().all(|(_, level)| level.is_some()) {
            return Ok(Raised::Newest(status.level));
        }
        if !behind.is_empty() {
            return Ok(Raised::Behind { next, members: behind });
        }
        let left = deadline.saturating_duration_since(clock::instant());
        match self.submit(Command::RaiseLevel { to: next }, left).await?.1 {
            Ok(Done::Level(level)) => Ok(Raised::To(level)),
            other => Err(Error::Setup(format!("raise the feature level: {other:?}"))),
        }
    }

    /// Says hello to every member anew: one that was restarted may be of another build.
    async fn ask_levels(&self, status: &Status, limit: Duration) {
        let others = status.members.iter().filter(|member| member.id != status.node);
        let asked = others.map(|member| async {
            self.core.peers.forget_level(member.id);
            let _ = self.core.peers.greet(&*self.core.transport, member.id, limit).await;
        });
        futures::future::join_all(asked).await;
    }
}
