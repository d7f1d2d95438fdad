//! Ends jobs whose deadline has passed, and rounds of votes that nobody goes on with.

use std::time::Duration;

use super::{Duty, Options, Reign};
use crate::consensus;
use crate::domain::{Command, JobId};

/// Jobs ended in one step; the others follow in the next.
const BATCH: usize = 1_000;

pub(super) struct Deadlines;

impl Duty for Deadlines {
    const NAME: &'static str = "deadlines";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_millis(250)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let now = reign.context.client.log_now();
        let commands = reign
            .context
            .client
            .read(|state| state.overdue(now).chain(state.stalled(now)).take(BATCH).map(pass).collect::<Vec<_>>());
        reign.record(Self::NAME, commands).await.map(drop)
    }
}

fn pass(job: JobId) -> Command {
    Command::PassDeadline { job }
}
