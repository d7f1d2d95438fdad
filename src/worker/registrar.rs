//! Makes the coordinators know this worker.
//!
//! Registration enters the log, so it is not repeated for comfort: only at the
//! start, when a coordinator says it does not know us, and after a time without
//! any coordinator, when the cluster may be another one.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::courier::{Backoff, Courier};
use super::files;
use crate::clock;
use crate::domain::WorkerId;
use crate::tasks::Tasks;
use crate::wire::proto::mesh::v1::Register;
use crate::wire::proto::mesh::v1::worker_request::Body;

/// Alone for longer than this, we register again.
const ALONE_MAX: Duration = Duration::from_secs(3);

const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// A refusal (banned, no room) is not going to change soon.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unregistered,
    Registered,
}

pub(super) struct Registrar {
    pub courier: Courier,
    pub register: Register,
    pub worker: WorkerId,
    /// Written when registered, if there is one.
    pub card: Option<PathBuf>,
    pub standing: watch::Sender<Standing>,
    pub tasks: Tasks,
}

/// What `worker.json` says.
#[derive(Serialize)]
struct Card {
    worker_id: WorkerId,
    pid: u32,
}

impl Registrar {
    pub async fn run(self) {
        let mut standing = self.standing.subscribe();
        loop {
            self.register().await;
            let registered = |standing: &Standing| *standing == Standing::Registered;
            tokio::select! {
                result = standing.wait_for(|standing| !registered(standing)) => if result.is_err() { return },
                () = self.alone_too_long() => {}
            }
        }
    }

    /// Until a coordinator has said yes.
    async fn register(&self) {
        let mut backoff = Backoff::default();
        let mut warned = false;
        loop {
            match self.courier.ask(Body::Register(self.register.clone()), 1).await {
                Ok(items) => match items.into_iter().next() {
                    Some(item) if !item.accepted => {
                        warn!(code = item.code, "registration refused");
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                    _ => break,
                },
                Err(error) => {
                    if backoff.is_long() && !warned {
                        warned = true;
                        warn!(%error, "still not registered: are addresses and network name right?");
                    } else {
                        debug!(%error, "not registered yet");
                    }
                    backoff.pause().await;
                }
            }
        }
        info!(worker = %self.worker, "registered");
        self.standing.send_replace(Standing::Registered);
        let Some(path) = self.card.clone() else { return };
        let card = Card { worker_id: self.worker, pid: std::process::id() };
        let shown = path.clone();
        let written = self.tasks.spawn_blocking(move || {
            let bytes = serde_json::to_vec(&card)?;
            files::replace(&path, &bytes)
        });
        if let Err(error) = written.await.unwrap_or_else(|error| Err(error.into())) {
            warn!(path = %shown.display(), %error, "cannot write worker.json");
        }
    }

    /// Completes when a coordinator is there again after none was for too long.
    async fn alone_too_long(&self) {
        let connected = || self.courier.coordinators.any(|peer| self.courier.mesh.is_connected(peer));
        let mut last = clock::instant();
        loop {
            tokio::time::sleep(WATCH_PERIOD).await;
            if connected() {
                if last.elapsed() > ALONE_MAX + WATCH_PERIOD {
                    return;
                }
                last = clock::instant();
            }
        }
    }
}
