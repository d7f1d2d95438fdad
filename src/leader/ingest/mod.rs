//! Takes jobs from Kafka.
//!
//! The leader reads every partition of the job topic from where the *log* says
//! that intake is. What it reads becomes one command for each partition and
//! batch, with jobs, letters and the offset behind them, so they commit together
//! or not at all. Kafka's own group offsets are written for dashboards only.
//!
//! What if the leader dies
//!
//! * before the command is in the log: nobody took the records, the next leader
//!   reads them again from the same offset;
//! * after it is in the log, before it is applied or answered: the next leader
//!   acts after it applied everything committed before it, and reads from behind;
//! * between reading and committing: what was read was only in memory, as in the
//!   first case;
//! * or was deposed and goes on reading: its commands are refused by the door,
//!   which knows the term. One that slipped through still meets the offsets in
//!   `apply`, where what is below them is skipped.
//!
//! Invariants
//!
//! * Nothing is skipped: an offset that the broker does not have, or another
//!   Kafka cluster, stops the partition or all of intake with an alarm, until an
//!   operator says where to go on.
//! * Nothing is dropped: what the log has no room for waits, here and in Kafka.
//! * A record that can not become a job never stands in the way of those behind it.
//!
//! Reading and judging the next batch goes on while one is being committed.

mod begin;
mod judge;
mod lanes;
mod session;
mod trouble;

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info};

use super::Reign;
use crate::chain;
use crate::clock;
use crate::consensus::Client;
use crate::kafka;
use crate::submission::Door;
use crate::tasks::Tasks;
use lanes::Bounds;
use session::Session;
use trouble::Trouble;

/// Records in one commit, and their bytes, whatever the configuration says.
const RECORDS_MAX: usize = 8_192;
const BYTES_MAX: usize = 1 << 20;

/// Between two attempts to begin: at first, and at most. A part of it is left to chance.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A session that lasted longer went well.
const WENT_WELL: Duration = Duration::from_secs(10);

/// What the duty is given.
pub(super) struct Duty {
    client: Client,
    term: u64,
    handle: kafka::Handle,
    tasks: Tasks,
    door: Door,
    /// `None`: disabled.
    chain: Option<chain::Handle>,
    /// Answers of the log to what it was sent, of whatever kind.
    #[cfg(test)]
    answers: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

/// Runs for as long as the term does; not at all without Kafka.
pub(super) async fn run(reign: Reign, tasks: Tasks) {
    let Some(handle) = reign.context.kafka else { return };
    let door = reign.context.options.door;
    let duty = Duty {
        client: reign.context.client,
        term: reign.number,
        handle,
        tasks,
        door,
        chain: reign.context.chain,
        #[cfg(test)]
        answers: Default::default(),
    };
    duty.run().await;
}

impl Duty {
    async fn run(self) {
        let alarm = self.handle.alarm("ingest");
        let mut reader = None;
        let mut pause = PAUSE;
        loop {
            let begun = clock::instant();
            let trouble = match self.session(&mut reader, &alarm).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            if begun.elapsed() > WENT_WELL {
                pause = PAUSE;
            }
            debug!(%trouble, "intake begins anew");
            match &trouble {
                Trouble::Kafka(kafka::Error::Stopping) => return,
                trouble if trouble.wants_new_reader() => reader = None,
                _ => {}
            }
            if let Some(text) = trouble.alarm() {
                alarm.note(Some(text));
            }
            sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Reads until something makes it begin anew. Keeps the reader if that is of further use.
    async fn session(
        &self,
        reader: &mut Option<kafka::Reader>,
        alarm: &kafka::Alarm,
    ) -> Result<std::convert::Infallible, Trouble> {
        let reader = match reader {
            Some(reader) => reader,
            none => none.insert(self.handle.reader()?),
        };
        let mut session = Session::begin(self, reader, alarm).await?;
        info!(cluster = session.cluster(), partitions = session.partitions(), "taking jobs from kafka");
        session.go_on().await
    }

    fn bounds(&self) -> Bounds {
        let intake = &self.handle.options().intake;
        let (each, bytes) = (intake.batch_records.clamp(1, RECORDS_MAX), intake.batch_bytes.clamp(1, BYTES_MAX));
        Bounds { each, records: RECORDS_MAX, bytes }
    }
}

#[cfg(test)]
mod tests;
