//! What of the chain needs somebody, and what that somebody should do.
//!
//! Alarms follow from a [`Picture`] alone. All but `duty` show on every node
//! that can see the cause. The codes are a closed set: they are labels in
//! `/metrics`, and `docs/chain.md` has a line for each (a test holds that).

use serde::Serialize;
use utoipa::ToSchema;

use super::amount;
use super::picture::{Own, Picture};
use crate::api::text;
use crate::chain::State;
use crate::domain::chain::{Site, U256};
use crate::domain::state::LIMITS;

/// Every code there is.
pub const CODES: [&str; 11] = [
    "down",
    "paused",
    "other_chain",
    "balance_low",
    "escrow_low",
    "spend_limit",
    "duty",
    "parked",
    "parked_near_bound",
    "journal_near_bound",
    "events_lost",
];

/// A bound is near from this share of it on, in percent.
const NEAR_PERCENT: u64 = 80;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChainAlarm)]
pub struct Alarm {
    /// Stable, for machines.
    #[schema(
        pattern = "^(down|paused|other_chain|balance_low|escrow_low|spend_limit|duty|parked|parked_near_bound|journal_near_bound|events_lost)$"
    )]
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

pub fn of(picture: &Picture) -> Vec<Alarm> {
    let own = picture.own.as_ref();
    let found = [
        own.and_then(|own| down(own, picture)),
        own.and_then(paused),
        own.and_then(|own| other_chain(own, picture)),
        own.and_then(balance_low),
        own.and_then(|own| escrow_low(own, picture)),
        own.and_then(|own| spend_limit(own, picture)),
        own.and_then(duty),
        parked(picture),
        parked_near_bound(picture),
        journal_near_bound(picture),
        events_lost(picture),
    ];
    found.into_iter().flatten().map(|(code, detail)| Alarm { code, detail }).collect()
}

type Found = Option<(&'static str, String)>;

fn down(own: &Own, picture: &Picture) -> Found {
    (own.view.state == State::Down).then(|| {
        let why = own.view.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let seen = own
            .view
            .as_of
            .map_or_else(|| "it was never seen".to_owned(), |at| format!("it was seen last at {}", text::time(at)));
        let detail = format!(
            "the chain can not be used{why}; {seen}, and is tried again by itself. Jobs under settle_later go on; \
             {} events and {} transactions wait",
            picture.unsettled, picture.waiting
        );
        ("down", detail)
    })
}

/// The chain answers, and nothing can be settled all the same.
fn paused(own: &Own) -> Found {
    (own.view.state == State::Paused).then(|| {
        let why = own.view.last_error.as_deref().unwrap_or("the contract or the account does not allow it");
        ("paused", format!("nothing is settled: {why}. It goes on by itself when that is put right"))
    })
}

fn other_chain(own: &Own, picture: &Picture) -> Found {
    let (found, known) = (own.site()?, picture.site.as_ref()?);
    (found != *known).then(|| {
        let detail = format!(
            "configured for {}, but the books are of {}: nothing is settled. If the change is meant, `ciro-coordinator \
             blockchain reset` accepts it; if not, correct the section blockchain of the configuration",
            shown(&found),
            shown(known)
        );
        ("other_chain", detail)
    })
}

pub fn shown(site: &Site) -> String {
    let chain = super::chain_name(site.chain_id);
    format!("contract {} by account {} on {chain}", site.contract, site.account)
}

fn balance_low(own: &Own) -> Found {
    let account = own.view.account.as_ref()?;
    let least = own.options.max_fee.unwrap_or(1);
    (account.balance < U256 { high: 0, low: least }).then(|| {
        let detail = format!(
            "account {} has {} of the fee token, and a transaction may cost up to {least}: fund it \
             (`ciro-coordinator blockchain account fund-hint`), before settling has to wait for it",
            account.address,
            amount(account.balance)
        );
        ("balance_low", detail)
    })
}

/// Whether jobs wait that could not be paid in advance, or a single one could not be any more.
fn escrow_low(own: &Own, picture: &Picture) -> Found {
    let account = own.view.account.as_ref()?;
    if picture.escrow_low > 0 {
        let payment = account.payment.map_or_else(String::new, |payment| {
            let (balance, allowance) = (amount(payment.balance), amount(payment.allowance));
            format!(": it has {balance} of the token that jobs are paid in and lets the contract take {allowance}")
        });
        let detail = format!(
            "{} jobs take more into escrow than account {} can pay{payment}. Fund it, or approve more: they go on by \
             themselves then. All others go on meanwhile; blockchain.max_escrow bounds what one may take",
            picture.escrow_low, account.address
        );
        return Some(("escrow_low", detail));
    }
    let payment = account.payment?;
    let least = own.view.contract.as_ref().and_then(|contract| contract.min_payment).unwrap_or_default();
    let usual = U256 { high: 0, low: own.options.default_max_price.map_or(1, |price| price.0.max(1)) };
    let least = least.max(usual);
    (payment.balance < least || payment.allowance < least).then(|| {
        let detail = format!(
            "account {} has {} of the token that jobs are paid in and lets the contract take {}; a job takes {} or \
             more: fund it, or approve more. Jobs whose clients set a charge limit go on",
            account.address,
            amount(payment.balance),
            amount(payment.allowance),
            amount(least)
        );
        ("escrow_low", detail)
    })
}

fn spend_limit(own: &Own, picture: &Picture) -> Found {
    let most = own.options.max_spend_per_hour?;
    (picture.spent_this_hour >= most).then(|| {
        let detail = format!(
            "{} of {most} were spent on fees in this hour of the clock: nothing more is sent before the next, unless \
             blockchain.max_spend_per_hour is raised",
            picture.spent_this_hour
        );
        ("spend_limit", detail)
    })
}

fn duty(own: &Own) -> Found {
    (!own.view.alarms.is_empty()).then(|| ("duty", own.view.alarms.join("; ")))
}

fn parked(picture: &Picture) -> Found {
    (picture.parked > 0).then(|| {
        let detail = format!(
            "{} stages of jobs can not be settled; `ciro-coordinator blockchain dlq list` says why, `… dlq retry` tries \
             again. All others go on",
            picture.parked
        );
        ("parked", detail)
    })
}

fn parked_near_bound(picture: &Picture) -> Found {
    let limit = u64::try_from(LIMITS.letters).unwrap_or(u64::MAX);
    (picture.parked >= limit / 100 * NEAR_PERCENT).then(|| {
        let detail = format!(
            "{} of {limit} places for stages that can not be settled are taken; when all are, nothing is settled that \
             comes behind the next such stage: it waits, and is not lost. `ciro-coordinator blockchain dlq list` shows \
             what they have in common; mend that and `… dlq retry` them, or `… dlq drop` what is never to be settled",
            picture.parked
        );
        ("parked_near_bound", detail)
    })
}

fn journal_near_bound(picture: &Picture) -> Found {
    let limit = u64::try_from(LIMITS.journal_max).unwrap_or(u64::MAX);
    let todo = match picture.own {
        Some(_) => "see why they are not settled, above or in the leader's log",
        None => "enable the chain, or `ciro-coordinator blockchain forget` if nothing is to be settled any more",
    };
    (picture.unsettled >= limit / 100 * NEAR_PERCENT).then(|| {
        let detail = format!(
            "{} of {limit} events that the journal keeps for the chain wait; at the bound new jobs are refused: {todo}",
            picture.unsettled
        );
        ("journal_near_bound", detail)
    })
}

fn events_lost(picture: &Picture) -> Found {
    (picture.lost > 0).then(|| {
        let detail = format!(
            "{} events were dropped before they were settled, because the chain was behind for too long; what was in \
             escrow for their jobs can be taken back after their deadline (expire_job)",
            picture.lost
        );
        ("events_lost", detail)
    })
}
