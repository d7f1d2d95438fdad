//! Lets the log's clock pass while nothing happens.
//!
//! Reputations are drawn back and bans end by the log's clock, which moves with
//! its records. On an idle cluster there are none: then this duty writes one
//! without commands as soon as it would change something, which is once an hour
//! at most, and at the end of a ban.

use std::time::Duration;

use super::{COMMIT_LIMIT, Duty, Options, Reign};
use crate::consensus;

pub(super) struct Hours;

impl Duty for Hours {
    const NAME: &'static str = "hours";

    fn period(&self, _: &Options) -> Duration {
        Duration::from_secs(10)
    }

    async fn step(&mut self, reign: &Reign) -> Result<(), consensus::Error> {
        let client = &reign.context.client;
        let now = client.log_now();
        if !client.read(|state| state.time_would_tell(now)) {
            return Ok(());
        }
        client.tick_as_leader(reign.number, COMMIT_LIMIT).await
    }
}
