//! Kafka: the client side of it, and nothing of what the node does with it.
//!
//! A [`Handle`] is this node's way to Kafka. It looks at the brokers every few
//! seconds, whether the node leads or not, and tells what it saw ([`View`]). A
//! leader's duties ask it for what they need: a [`Reader`], a [`Writer`], or an
//! [`ExactWriter`] whose records and watermark commit together.
//!
//! Invariants
//!
//! * Every call has a deadline and gives up when the node stops. Blocking calls
//!   of the library run on threads that nobody waits for.
//! * Every queue is bounded, in records and bytes. Full: reading pauses, writing waits.
//! * Nothing is committed, skipped or reset here: what an offset means is the replicated state's business.
//! * Credentials leave [`Hidden`] only towards the library; no error, log line or `Debug` has them.
//! * Nothing a broker says can end the process ([`is_guarded`]).
//!
//! Deliberately absent: consumer groups that rebalance, offsets kept by Kafka
//! as a truth, the library's statistics. Without the feature `kafka` only the
//! types that describe remain: no client, and no C library.

mod alarm;
mod error;
mod guard;
mod options;
mod record;
mod view;

#[cfg(feature = "kafka")]
mod client;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use alarm::Alarm;
pub use error::Error;
pub use guard::is_guarded;
pub use options::{Delivery, Hidden, Intake, Mode, Options, Protocol, Security, Start, Timing, Topics};
pub use record::{Message, Record, Survey};
pub use view::{Marks, State, View};

#[cfg(feature = "kafka")]
pub use client::{ExactWriter, Reader, Writer, broker};

use crate::tasks::Tasks;

/// This node's way to Kafka. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    /// What the probe saw last. Its alarms are kept beside it.
    view: RwLock<View>,
    alarms: Mutex<alarm::Alarms>,
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "without a client nobody makes a handle"))]
    tasks: Tasks,
}

impl Handle {
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "without a client nobody makes a handle"))]
    fn new(options: Options, tasks: &Tasks) -> Self {
        let (view, alarms) = (RwLock::new(View::new(State::Connecting)), Mutex::default());
        Self(Arc::new(Shared { options, view, alarms, tasks: tasks.clone() }))
    }

    /// What this node saw of Kafka when it looked last, and what its duties complain of now.
    pub fn view(&self) -> View {
        let alarms = self.0.alarms.lock().unwrap_or_else(PoisonError::into_inner).all();
        let view = self.0.view.read().unwrap_or_else(PoisonError::into_inner).clone();
        View { alarms, ..view }
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Where a duty says what keeps it from its work. What it said is taken back when the duty ends.
    pub fn alarm(&self, duty: &'static str) -> Alarm {
        Alarm::new(self.clone(), duty)
    }
}
