//! Watches leadership: builds a [`Term`] when this node is elected, stops it
//! when it no longer leads or leads in another term.

use tokio::sync::{mpsc, watch};

use crate::consensus::Leadership;
use crate::leader::{Context, Offer, Term};
use crate::tasks::Tasks;

/// Where bids go: to the market of the term, if this node has one.
#[derive(Clone)]
pub(super) struct Desk(watch::Sender<Option<mpsc::Sender<Offer>>>);

impl Default for Desk {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl Desk {
    /// Hands an offer to the market. Dropped if this node does not lead, or the market is swamped.
    pub(super) fn offer(&self, offer: Offer) {
        let market = self.0.borrow().clone();
        if let Some(market) = market {
            market.try_send(offer).ok();
        }
    }
}

/// Runs until `tasks` is asked to stop; then the last term has ended, too.
pub(super) async fn watch(context: Context, desk: Desk, tasks: Tasks) {
    let mut leadership = context.client.leadership();
    let mut current: Option<(u64, Term)> = None;
    loop {
        let now = *leadership.borrow_and_update();
        current = follow(now, current, &context, &desk, &tasks).await;
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { break },
            () = tasks.token().cancelled() => break,
        }
    }
    follow(Leadership::Following, current, &context, &desk, &tasks).await;
}

/// Makes what runs agree with what is.
async fn follow(
    now: Leadership,
    current: Option<(u64, Term)>,
    context: &Context,
    desk: &Desk,
    tasks: &Tasks,
) -> Option<(u64, Term)> {
    let wanted = match now {
        Leadership::Following => None,
        Leadership::Leading { term } => Some(term),
    };
    if current.as_ref().map(|(term, _)| *term) == wanted {
        return current;
    }
    if let Some((_, term)) = current {
        desk.0.send_replace(None);
        term.stop().await;
    }
    let number = wanted?;
    let term = Term::start(number, context.clone(), tasks);
    desk.0.send_replace(Some(term.offers()));
    Some((number, term))
}
