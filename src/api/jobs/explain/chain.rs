//! Why a job waits for the chain: it is not to run before its registration there counts.

use std::sync::Arc;

use crate::api::text;
use crate::chain::{State as Connection, View};
use crate::domain::chain::{ESCROW_LOW, Link, Settlement, Stage};
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
        if &**code == ESCROW_LOW {
            return format!("the account that pays has to be funded first ({code}: {reason})");
        }
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
    let seen = view
        .as_of
        .map_or_else(|| "and was never seen".to_owned(), |at| format!("and was seen last at {}", text::time(at)));
    match view.state {
        Connection::Connected => String::new(),
        Connection::Connecting => "; this node has not seen the chain yet".to_owned(),
        Connection::Down => format!("; the chain is down{why} {seen}"),
        Connection::Paused => format!("; nothing is settled now{why}"),
        Connection::Disabled => "; the chain is disabled on this node".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::blockchain::tests::{act, apply, job, landed, own, picture, state};
    use crate::domain::Command;
    use crate::domain::chain::{Act, Confirmation};

    fn told(state: &State, view: Option<&View>, n: u8) -> String {
        let now = Timestamp(state.now().0 + 3_000);
        let (code, detail) = why(state, view, state.job(job(n)).unwrap(), now);
        assert_eq!(code, "awaits_chain");
        detail.strip_prefix("the job waits for its registration on chain: ").unwrap().to_owned()
    }

    #[test]
    fn a_job_tells_which_transaction_it_waits_for() {
        let (mut state, own) = (state(), own());
        // Two records came after the one that prepared it, a second each.
        assert_eq!(told(&state, Some(&own.view), 3), "transaction 0x207, prepared 5 s ago");
        let down = View { state: Connection::Down, last_error: Some("timed out".to_owned()), ..own.view.clone() };
        let seen = "the chain is down (timed out) and was seen last at 2025-11-24T16:00:00.000Z";
        assert_eq!(told(&state, Some(&down), 3), format!("transaction 0x207, prepared 5 s ago; {seen}"));
        act(&mut state, Act::Landed { nonce: 7, landed: landed(0x207, Confirmation::Preconfirmed, None) });
        let early = "transaction 0x207 is preconfirmed, and accepted_l2 is asked for, prepared 6 s ago";
        assert_eq!(told(&state, None, 3), early);
    }

    #[test]
    fn a_job_without_a_transaction_tells_why() {
        let (mut state, own) = (state(), own());
        let reverted = landed(0x207, Confirmation::AcceptedL2, Some("('PAYMENT_TOO_LOW')"));
        act(&mut state, Act::Landed { nonce: 7, landed: reverted });
        let again = "its transaction came to nothing (('PAYMENT_TOO_LOW')) and is planned again";
        assert_eq!(told(&state, Some(&own.view), 3), again);
        assert!(
            told(&state, Some(&own.view), 4).starts_with("it is parked (payment_too_low: the contract takes no less")
        );
        let unseen = View { state: Connection::Down, as_of: None, ..own.view.clone() };
        assert_eq!(chain_is(Some(&unseen)), "; the chain is down and was never seen");
        let paused = View { state: Connection::Paused, last_error: Some("PAUSED".to_owned()), ..own.view };
        assert_eq!(chain_is(Some(&paused)), "; nothing is settled now (PAUSED)");
        assert!(chain_is(None).contains("disabled on this node"));
    }

    #[test]
    fn a_job_whose_escrow_is_not_there_waits_for_funds_and_is_told_so() {
        let (mut state, own) = (state(), own());
        act(&mut state, Act::Retry { seq: 4 });
        let item = state.chain().again().find(|again| again.item.seq == 4).unwrap().item.clone();
        let reason = "the job takes 120 of the payment token into escrow, and the account has less".into();
        act(&mut state, Act::Park { parked: vec![(item, ESCROW_LOW.into(), reason)], through: 4 });
        let told = told(&state, Some(&own.view), 4);
        assert!(
            told.starts_with("the account that pays has to be funded first (escrow_low: the job takes 120"),
            "{told}"
        );
        assert!(!told.contains("dlq retry"), "it goes on by itself: {told}");
        // So do the alarms, whatever the usual job costs.
        let alarm = |state: &State| {
            picture(Some(own.clone()), state).alarms().into_iter().find(|alarm| alarm.code == ESCROW_LOW)
        };
        assert!(alarm(&state).unwrap().detail.starts_with("1 jobs take more into escrow than account 0xacc can pay"));
        apply(&mut state, Command::Cancel { job: job(4), reason: String::new() }).unwrap();
        assert_eq!(alarm(&state), None, "nothing is wanted for it any more");
    }
}
