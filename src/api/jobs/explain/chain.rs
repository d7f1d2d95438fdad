//! Why a job waits for the chain: it is not to run before its registration there counts.

use std::sync::Arc;

use crate::api::text;
use crate::chain::{State as Connection, View};
use crate::domain::chain::{Link, Settlement, Stage};
use crate::domain::{Job, State, Timestamp};
use crate::submission::settlement::confirmation_name;

/// `view`: this node's own of the chain; `None`: it is disabled here.
pub fn why(state: &State, view: Option<&View>, job: &Job, now: Timestamp) -> (&'static str, String) {
    ("awaits_chain", format!("the job waits for its registration on chain: {}", detail(state, view, job, now)))
}

fn detail(state: &State, view: Option<&View>, job: &Job, now: Timestamp) -> String {
    let books = state.chain();
    let settlement = books.settlement(job.id).map(Arc::as_ref);
    if let Some(parked) = settlement.and_then(|of| of.parked.iter().find_map(|seq| books.parked(*seq))) {
        let (code, reason, seq) = (&parked.code, &parked.reason, parked.item.seq);
        return format!(
            "it is parked ({code}: {reason}); `ciro-coordinator blockchain dlq retry {seq}` tries again when that is put right"
        );
    }
    let registration = |again: &&Arc<_>| is_registration(again, job);
    if let Some(again) = books.again().find(registration) {
        return format!("its transaction came to nothing ({}) and is planned again{}", again.reason, chain_is(view));
    }
    match settlement.and_then(registration_link) {
        Some(link) => sent(state, view, job, link, now),
        None => format!("no transaction yet{}", chain_is(view)),
    }
}

fn is_registration(again: &crate::domain::chain::Again, job: &Job) -> bool {
    again.item.job == job.id && again.item.stage == Stage::Register
}

fn registration_link(settlement: &Settlement) -> Option<&Link> {
    settlement.links.iter().rfind(|link| link.stage == Stage::Register)
}

fn sent(state: &State, view: Option<&View>, job: &Job, link: &Link, now: Timestamp) -> String {
    let hash = link.hash;
    let prepared = state.chain().slot(link.nonce).map(|slot| now.since(slot.prepared_at) / 1_000);
    let since = prepared.map_or_else(String::new, |secs| format!(", prepared {secs} s ago"));
    match (link.confirmation, job.spec.settlement) {
        (Some(reached), Some(terms)) => {
            let (reached, wanted) = (confirmation_name(reached), confirmation_name(terms.confirmation));
            format!("transaction {hash} is {reached}, and {wanted} is asked for{since}")
        }
        _ => format!("transaction {hash}{since}{}", chain_is(view)),
    }
}

/// What keeps a transaction from being sent or landing, as far as this node sees.
fn chain_is(view: Option<&View>) -> String {
    let Some(view) = view else { return "; the chain is disabled on this node, so it does not see more".to_owned() };
    let why = view.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    let seen = view.as_of.map_or_else(
        || "and was never seen".to_owned(),
        |at| format!("and was seen last at {}", text::time(at)),
    );
    match view.state {
        Connection::Connected => String::new(),
        Connection::Connecting => "; this node has not seen the chain yet".to_owned(),
        Connection::Down => format!("; the chain is down{why} {seen}"),
        Connection::Paused => format!("; nothing is settled now{why}"),
        Connection::Disabled => "; the chain is disabled on this node".to_owned(),
    }
}
