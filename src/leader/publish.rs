//! Publishes what happened to Kafka.
//!
//! The journal in the replicated state says what happened, and a cursor says how
//! much of it Kafka has. This duty closes that gap and keeps no state that its
//! successor would miss. Records go out in the journal's order, one batch after
//! the other; the next is written while the last is on its way, and the cursor
//! follows behind, see [`cursor`].
//!
//! * `at_least_once`: after the brokers' acknowledgement the cursor moves.
//! * `exactly_once`: records and the number of the last entry, the watermark, are
//!   one transaction. A new writer fences its predecessor, and goes on behind the
//!   watermark or the cursor, whichever is further.
//!
//! What remains after a leader died, or was deposed and goes on, by where it was:
//!
//! | where | `at_least_once` | `exactly_once` |
//! |---|---|---|
//! | before it sent | the batch is sent by its successor | the same |
//! | some of the batch is acknowledged | all of it is sent again, under the same `ce_id` | the transaction is aborted and sent again: readers of what is committed see it once |
//! | all acknowledged, the cursor not moved | all of it is sent again, under the same `ce_id` | the watermark says so: the cursor is moved, nothing is sent |
//! | the cursor moved | nothing is sent | the same |
//! | deposed, goes on sending | repeats under the same `ce_id`; its cursor commits are refused by term | fenced: its transaction is aborted |
//!
//! Repeats keep the order: each sender goes through the journal in order and begins
//! at or before the end of what is acknowledged, so the first occurrence of a
//! record never comes before that of an earlier one.
//!
//! When Kafka is down, slow or refuses, the same is tried again, later each time,
//! and nothing is dropped: the journal keeps it, and says so in time. Only a
//! record that Kafka never takes, because it is too long or the topic has no such
//! records, is replaced, first by one without its output, then by a stub, and at
//! last by one in the dead-letter topic, see [`record::Form`]. Where it does not
//! say which of many it means, fewer are sent together until it is clear.
//!
//! Absent: reading the topics, and any knowledge of who consumes them.

mod batch;
mod cursor;
mod headers;
mod letters;
mod record;
mod sender;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
mod worries;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{COMMIT_LIMIT, Reign};
use crate::consensus::Leadership;
use crate::domain::kafka::Lane;
use crate::kafka::{Delivery, Error, Handle, Message};
use crate::telemetry::metrics;

use self::batch::Batch;
use self::cursor::Progress;
use self::record::{Form, Outlet, Refused};
use self::sender::Sender;
use self::worries::{Worries, Worry};

/// Entries that may be sent before the cursor has moved behind them: about as many are repeated after a fail-over.
const AHEAD_MAX: u64 = 20_000;

/// What comes within this time goes out together.
const GATHER: Duration = Duration::from_millis(5);

/// Pause after an error, doubled each time up to the longest; half of it is chance.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Records that are written down without giving way to others.
const WRITE_AT_ONCE: usize = 128;

/// By how much fewer records are sent together until it is clear which of them Kafka refuses.
const FEWER: usize = 8;

/// Why sending came to an end.
enum End {
    /// The same, or another writer, may go on.
    Failed(Error),
    /// A record is sent in a smaller form next time, or with fewer others.
    Shrunk(Error),
    /// Records of another life of this cluster are in Kafka: nothing may be sent.
    Foreign { mark: u64, newest: u64 },
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A batch, and the records it becomes.
struct Written {
    batch: Batch,
    messages: Vec<Message>,
}

struct Publisher<'a> {
    reign: &'a Reign,
    kafka: Handle,
    outlet: Outlet,
    worries: Worries,
    progress: watch::Sender<Progress>,
    /// Records that were longer than Kafka takes, and how they are sent instead.
    smaller: Mutex<BTreeMap<u64, Form>>,
    /// Records that are sent together, while it is not clear which of them Kafka refuses.
    together: AtomicUsize,
}

/// Runs as long as the term lasts; may be dropped at any await.
pub(super) async fn run(reign: Reign) {
    let Some(kafka) = reign.context.kafka.clone() else { return };
    let publisher = Publisher {
        reign: &reign,
        outlet: Outlet::new(kafka.options()),
        worries: Worries::new(kafka.alarm("publish")),
        progress: watch::Sender::new(Progress::default()),
        smaller: Mutex::default(),
        together: AtomicUsize::new(usize::MAX),
        kafka,
    };
    let progress = publisher.progress.subscribe();
    tokio::select! {
        () = publisher.run() => {}
        () = cursor::follow(&reign, progress) => {}
        () = publisher.worries.watch(&reign) => {}
    }
}

impl Publisher<'_> {
    async fn run(&self) {
        self.register().await;
        let mut sender = None;
        let mut failures = 0;
        loop {
            let before = self.through();
            let Err(end) = self.publish(&mut sender).await;
            if self.through() > before {
                failures = 0;
            }
            match end {
                End::Failed(Error::Stopping) => pending().await,
                End::Failed(error) => {
                    self.failed(&error, &mut sender);
                    self.wait_for_topic(&error).await;
                }
                // The next try is another one.
                End::Shrunk(error) => {
                    sender = sender.filter(|sender| sender.survives(&error));
                    continue;
                }
                End::Foreign { mark, newest } => {
                    self.worries.foreign(mark, newest, &self.outlet.cluster);
                    drop(sender.take());
                    pending().await
                }
            }
            tokio::time::sleep(again_after(failures)).await;
            failures += 1;
        }
    }

    /// Makes the journal keep what Kafka has not got. All that it still holds is published.
    async fn register(&self) {
        loop {
            let first = self.reign.context.client.read(|state| state.journal().first_seq());
            if cursor::cursor(self.reign).is_some() || cursor::commit(self.reign, first.saturating_sub(1)).await {
                return;
            }
        }
    }

    fn failed(&self, error: &Error, sender: &mut Option<Sender>) {
        debug!(%error, "batch not sent, will be tried again");
        self.worries.note(Worry::Failing, Some(error.to_string()));
        if sender.as_ref().is_some_and(|sender| !sender.survives(error)) {
            drop(sender.take());
        }
    }

    /// As long as a topic is known to be missing, sending would only repeat what goes to the others.
    async fn wait_for_topic(&self, error: &Error) {
        let Error::NoTopic(topic) = error else { return };
        while self.kafka.view().missing.contains(topic) {
            tokio::time::sleep(AGAIN_FIRST).await;
        }
    }

    /// Sends batch after batch until something fails.
    async fn publish(&self, slot: &mut Option<Sender>) -> Result<std::convert::Infallible, End> {
        if slot.is_none() {
            *slot = Some(self.open().await?);
        }
        let Some(sender) = slot else { return Err(Error::Spent("no writer".to_owned()).into()) };
        let mut next = self.prepare(self.through()).await;
        loop {
            if next.messages.is_empty() {
                self.reached(next.batch.through);
                self.wait(sender, next.batch.through).await?;
                next = self.prepare(next.batch.through).await;
                continue;
            }
            self.wait_for_cursor().await;
            let Written { batch, messages } = next;
            let (sent, after) = tokio::join!(sender.send(messages, batch.through), self.prepare(batch.through));
            self.judge(&batch, sent)?;
            next = after;
        }
    }

    /// A writer, once it is certain that this node leads, and progress where it begins.
    async fn open(&self) -> Result<Sender, End> {
        let begin = cursor::cursor(self.reign).unwrap_or(0).max(self.through());
        if self.kafka.options().delivery == Delivery::AtLeastOnce {
            let sender = Sender::at_least_once(&self.kafka)?;
            self.reached(begin);
            return Ok(sender);
        }
        self.lead().await;
        let (sender, mark) = Sender::exactly_once(&self.kafka).await?;
        let (newest, behind) = self.reign.context.client.read(|state| {
            let journal = state.journal();
            (journal.last_seq(), journal.is_behind())
        });
        // What was published after the backup that this cluster comes from is not in its journal, and never will be.
        let mark = mark.map_or(0, |mark| if behind { mark.min(newest) } else { mark });
        if mark > newest {
            return Err(End::Foreign { mark, newest });
        }
        // What was sent but not noted, by a predecessor or by a transaction whose outcome was not heard.
        if mark > begin {
            info!(cursor = begin, watermark = mark, "going on behind the watermark");
        }
        while cursor::cursor(self.reign).unwrap_or(0) < mark {
            cursor::commit(self.reign, mark).await;
        }
        self.reached(begin.max(mark));
        Ok(sender)
    }

    /// Waits until a quorum confirms that this node leads in its term; a deposed leader waits until it is stopped.
    /// So it does not fence its successor.
    async fn lead(&self) {
        let client = &self.reign.context.client;
        let mut failures = 0;
        loop {
            let confirmed = client.linearize(COMMIT_LIMIT).await.is_ok();
            if confirmed && *client.leadership().borrow() == (Leadership::Leading { term: self.reign.number }) {
                return;
            }
            tokio::time::sleep(again_after(failures)).await;
            failures += 1;
        }
    }

    /// How far everything that is to be published is in Kafka, as far as this leader knows.
    fn through(&self) -> u64 {
        self.progress.borrow().through
    }

    /// Takes the next entries, and writes down what becomes of them.
    async fn prepare(&self, after: u64) -> Written {
        let mut batch = Batch::within(after, self.together.load(Ordering::Relaxed));
        while self.reign.context.client.read(|state| batch.extend(state)) {
            tokio::task::yield_now().await;
        }
        if batch.lost > 0 {
            error!(entries = batch.lost, after, "the journal ran over its bound: entries are lost for Kafka");
            self.worries.lost(batch.lost);
        }
        batch.items.retain(|item| self.form(item.seq) != Form::Left);
        let mut messages = Vec::with_capacity(batch.items.len());
        for items in batch.items.chunks(WRITE_AT_ONCE) {
            messages.extend(items.iter().map(|item| self.outlet.message(item, &self.form(item.seq))));
            tokio::task::yield_now().await;
        }
        Written { batch, messages }
    }

    fn form(&self, seq: u64) -> Form {
        let smaller = self.smaller.lock().unwrap_or_else(PoisonError::into_inner);
        smaller.get(&seq).cloned().unwrap_or_default()
    }

    /// What a batch came to.
    fn judge(&self, batch: &Batch, sent: Result<(), Error>) -> Result<(), End> {
        match sent {
            Ok(()) => {
                self.published(batch);
                Ok(())
            }
            Err(error @ (Error::TooLarge { index, .. } | Error::Unfit { index, .. })) => {
                self.shrink(batch, index, &error);
                Err(End::Shrunk(error))
            }
            Err(error @ Error::Unclear { .. }) => {
                let fewer = batch.items.len() / FEWER;
                debug!(%error, fewer, "fewer records are sent together");
                self.together.store(fewer.max(1), Ordering::Relaxed);
                Err(End::Shrunk(error))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn published(&self, batch: &Batch) {
        for (lane, records) in batch.lanes() {
            metrics::kafka_published(name(lane), records);
        }
        if let (Some(first), Some(last)) = (batch.items.first(), batch.items.last()) {
            let now = self.reign.context.client.log_now();
            metrics::kafka_publish_took(Duration::from_millis(now.since(first.at)));
            self.progress.send_modify(|progress| progress.published = last.seq);
        }
        self.reached(batch.through);
        self.smaller.lock().unwrap_or_else(PoisonError::into_inner).retain(|seq, _| *seq > batch.through);
        self.worries.note(Worry::Failing, None);
        let together = self.together.load(Ordering::Relaxed);
        self.together.store(together.saturating_mul(FEWER), Ordering::Relaxed);
    }

    fn reached(&self, through: u64) {
        self.progress.send_if_modified(|progress| {
            let further = through > progress.through;
            progress.through = progress.through.max(through);
            further
        });
    }

    /// Next time less is sent in place of a record that Kafka does not take.
    fn shrink(&self, batch: &Batch, index: usize, error: &Error) {
        let Some(item) = batch.items.get(index) else { return };
        let (seq, lane, before) = (item.seq, name(item.lane), self.form(item.seq));
        let refused = refused(error);
        let form = match before {
            Form::Whole if matches!(error, Error::TooLarge { .. }) => Form::Lean,
            Form::Whole | Form::Lean => Form::Stub(refused),
            Form::Stub(_) if matches!(item.lane, Lane::Results | Lane::Workers) => Form::Aside(refused),
            Form::Stub(_) | Form::Aside(_) | Form::Left => Form::Left,
        };
        match &form {
            Form::Whole | Form::Lean => warn!(seq, lane, %error, "record is published without its bulk"),
            Form::Stub(_) => error!(seq, lane, %error, "a stub is published in place of a record"),
            Form::Aside(_) => error!(seq, lane, %error, "a stub goes to the dead-letter topic in place of a record"),
            Form::Left => {
                error!(seq, lane, %error, "record is left out: Kafka takes nothing of it");
                self.worries.left(&self.outlet.cluster, seq);
            }
        }
        self.smaller.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, form);
    }

    /// Waits for further entries. Meanwhile the watermark is kept from expiring.
    async fn wait(&self, sender: &mut Sender, through: u64) -> Result<(), Error> {
        if let Some(limit) = sender.renewal_in().filter(|_| through > 0) {
            if tokio::time::timeout(limit, self.grown(through)).await.is_err() {
                sender.send(Vec::new(), through).await?;
            }
        } else {
            self.grown(through).await;
        }
        tokio::time::sleep(GATHER).await;
        Ok(())
    }

    /// Completes when the journal has entries after `through`.
    async fn grown(&self, through: u64) {
        let client = &self.reign.context.client;
        let mut applied = client.applied();
        loop {
            applied.borrow_and_update();
            if client.read(|state| state.journal().last_seq()) > through {
                return;
            }
            if applied.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Waits as long as the cursor is too far behind.
    async fn wait_for_cursor(&self) {
        let mut applied = self.reign.context.client.applied();
        loop {
            applied.borrow_and_update();
            let sent = self.through();
            if sent.saturating_sub(cursor::cursor(self.reign).unwrap_or(0)) <= AHEAD_MAX {
                return;
            }
            if applied.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

/// What a stub says of why it is one.
fn refused(error: &Error) -> Refused {
    match error {
        Error::TooLarge { bytes, .. } => {
            let message = format!("a record of {bytes} bytes is longer than Kafka takes");
            Refused { code: "record_too_large", message }
        }
        Error::Unfit { why, .. } => Refused { code: "record_refused", message: why.clone() },
        other => Refused { code: "record_refused", message: other.to_string() },
    }
}

fn name(lane: Lane) -> &'static str {
    match lane {
        Lane::Results => "results",
        Lane::Workers => "workers",
        Lane::DeadLetters => "dead_letters",
        Lane::Replays => "replays",
    }
}

/// How long to wait after that many failures in a row.
fn again_after(failures: u32) -> Duration {
    let most = AGAIN_FIRST.saturating_mul(1 << failures.min(10)).min(AGAIN_MAX);
    most.mul_f64(rand::random_range(0.5..=1.0))
}
