//! Every row of the decision, and what must hold of any.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::Timestamp;
use crate::domain::chain::{Block, Bounds, Felt, Transaction};

const RULES: Rules = Rules {
    resend: Duration::from_secs(10),
    retry: Duration::from_secs(1),
    replace: Duration::from_secs(60),
    patience: Duration::from_secs(3),
    long_patience: Duration::from_secs(30),
    watch_blocks: 10,
};

const NONCE: u64 = 7;

fn slot(tries: u64) -> Slot {
    let try_ = |n: u64| Transaction {
        nonce: NONCE,
        hash: Felt::from(n),
        epoch: 1,
        lead: vec![],
        items: vec![],
        bounds: Bounds::default(),
    };
    let tries = (1..=tries).map(try_).collect();
    Slot { tries, prepared_at: Timestamp(0), prepared_index: 1, landed: None, landed_at: None, given_back: false }
}

fn landed(confirmation: Confirmation, block: Option<u64>) -> Landed {
    let block = block.map(|number| Block { number, hash: Felt::from(number) });
    Landed { hash: Felt::from(1u64), block, confirmation, fee: 5, reverted: None, ids: vec![] }
}

fn reverted(landed: Landed) -> Landed {
    Landed { reverted: Some("SPEC_MISMATCH".into()), ..landed }
}

fn secs(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

fn look(nonce: u64) -> Look {
    Look { nonce, ..Look::default() }
}

/// Sent first and last so long ago, and a node has it.
fn sent(first: u64, last: u64) -> Seen {
    Seen { first_sent: secs(first), last_sent: secs(last), accepted: true, ..Seen::default() }
}

fn refused(refusal: Refusal, refusals: u32) -> Seen {
    Seen { accepted: false, refused: Some(refusal), refusals, ..sent(2, 2) }
}

#[test]
fn what_waits() {
    let never = Seen::default();
    let amiss = |secs_: u64| Seen { amiss: secs(secs_), ..sent(40, 2) };
    let unheard = |last| Seen { accepted: false, ..sent(last, last) };
    let gap = Look { gap: true, ..look(NONCE - 3) };
    let there = Look { found: Some(landed(Confirmation::Preconfirmed, None)), ..look(NONCE + 1) };
    let arrived = Step::Landed(Box::new(landed(Confirmation::Preconfirmed, None)));
    let most = TRIES_MAX as u64;
    let rows = [
        ("prepared, the sender died before it sent", 1, look(NONCE), never, Step::Send),
        ("its turn has not come, the others are in flight", 1, look(NONCE - 1), never, Step::Send),
        ("landed, and nobody told the log", 1, there.clone(), never, arrived.clone()),
        ("landed after all, whatever else", 1, there, amiss(99), arrived),
        ("sent a moment ago", 1, look(NONCE), sent(2, 2), Step::Wait),
        ("sent, and no answer heard", 1, look(NONCE), unheard(0), Step::Wait),
        ("no answer heard for long, and it is not there", 1, look(NONCE), unheard(1), Step::Send),
        ("the mempool may have dropped it", 1, look(NONCE), sent(12, 10), Step::Send),
        ("does not land", 1, look(NONCE), sent(60, 2), Step::Replace),
        ("does not land, whatever it pays", most, look(NONCE), sent(60, 2), Step::Wait),
        ("does not land, and is dropped", most, look(NONCE), sent(60, 10), Step::Send),
        ("nobody took it, so paying more is no help", 1, look(NONCE), unheard(60), Step::Send),
        ("prices rose", 1, look(NONCE), refused(Refusal::Cheap, 1), Step::Replace),
        ("prices rose for the last time", most, look(NONCE), refused(Refusal::Cheap, 1), Step::Send),
        ("the account is empty", 1, look(NONCE), refused(Refusal::Hopeful, 9), Step::Send),
        ("the nonce is said to be used", 1, look(NONCE), refused(Refusal::Taken, 1), Step::Send),
        ("refused for good, perhaps by one node", 1, look(NONCE), refused(Refusal::Final, 2), Step::Send),
        ("refused for good", 1, look(NONCE), refused(Refusal::Final, 3), Step::Abandon),
        ("another node may not have it yet", 1, look(NONCE + 1), amiss(2), Step::Wait),
        ("somebody else used its nonce", 1, look(NONCE + 1), amiss(3), Step::Abandon),
        ("somebody else used it before we sent", 1, look(NONCE + 1), Seen { amiss: secs(3), ..never }, Step::Abandon),
        ("the chain went back behind the lane", 1, gap.clone(), amiss(29), Step::Wait),
        ("the chain stays behind the lane", 1, gap, amiss(30), Step::Abandon),
    ];
    for (what, tries, look, seen, step) in rows {
        assert_eq!(RULES.waiting(NONCE, &slot(tries), &look, &seen), step, "{what}");
    }
}

#[test]
fn what_landed() {
    use Confirmation::{AcceptedL1, AcceptedL2, Preconfirmed};
    let is = |landed: Landed| Look { found: Some(landed), head: 100, ..look(NONCE + 1) };
    let gone = |nonce| Look { head: 100, ..look(nonce) };
    let amiss = |secs_: u64| Seen { amiss: secs(secs_), ..Seen::default() };
    let (early, at_99, at_80) =
        (landed(Preconfirmed, None), landed(AcceptedL2, Some(99)), landed(AcceptedL2, Some(80)));
    let told = |landed: &Landed| Step::Landed(Box::new(landed.clone()));
    let other_hash = Landed { hash: Felt::from(2u64), ..at_99.clone() };
    let final_ = landed(AcceptedL1, Some(99));
    let rows = [
        ("nothing new", &early, is(early.clone()), amiss(0), Step::Wait),
        ("its block is closed", &early, is(at_99.clone()), amiss(0), told(&at_99)),
        ("another node lags", &at_99, is(early.clone()), amiss(0), Step::Wait),
        ("in another block now", &at_99, is(at_80.clone()), amiss(0), Step::Lost),
        ("accepted on L1", &at_99, is(final_.clone()), amiss(0), told(&final_)),
        ("accepted on L1, and told", &final_, is(final_.clone()), amiss(0), Step::Close),
        ("deep enough", &at_80, is(at_80.clone()), amiss(0), Step::Close),
        ("not deep enough", &at_99, is(at_99.clone()), amiss(0), Step::Wait),
        ("another try landed after all", &at_99, is(other_hash), amiss(0), Step::Lost),
        ("came out otherwise the second time", &at_99, is(reverted(at_99.clone())), amiss(0), Step::Lost),
        ("its block was given up, or a node lags", &at_99, gone(NONCE), amiss(2), Step::Wait),
        ("its block was given up", &at_99, gone(NONCE), amiss(3), Step::Lost),
        ("unknown although its nonce is used", &at_99, gone(NONCE + 1), amiss(3), Step::Wait),
        ("another took its nonce in the new branch", &at_99, gone(NONCE + 1), amiss(30), Step::Lost),
    ];
    for (what, known, look, seen, step) in rows {
        assert_eq!(RULES.watched(NONCE, known, &look, &seen), step, "{what}");
    }
}

#[test]
fn a_reason_that_is_kept_cut_is_the_same() {
    let known = reverted(landed(Confirmation::Preconfirmed, None));
    let more = Landed { reverted: Some("longer: SPEC_MISMATCH".into()), ..landed(Confirmation::AcceptedL2, Some(9)) };
    let look = Look { found: Some(more), ..look(NONCE + 1) };
    let Step::Landed(told) = RULES.watched(NONCE, &known, &look, &Seen::default()) else { panic!() };
    assert_eq!(told.reverted, known.reverted);
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let time = || proptest::option::of((0u64..200).prop_map(Duration::from_secs));
    let refusals = vec![Refusal::Taken, Refusal::Cheap, Refusal::Hopeful, Refusal::Final];
    let refused = proptest::option::of(proptest::sample::select(refusals));
    (time(), time(), any::<bool>(), refused, 0u32..9, time()).prop_map(
        |(first_sent, last_sent, accepted, refused, refusals, amiss)| Seen {
            first_sent,
            last_sent,
            accepted,
            refused,
            refusals,
            amiss,
        },
    )
}

proptest! {
    #[test]
    fn what_is_there_is_never_given_up_and_what_is_not_is_never_told(
        tries in 1u64..9, nonce in 0u64..20, gap: bool, there: bool, seen in any_seen(),
    ) {
        let found = there.then(|| landed(Confirmation::Preconfirmed, None));
        let look = Look { nonce, found, gap, head: 0 };
        let step = RULES.waiting(NONCE, &slot(tries), &look, &seen);
        prop_assert_eq!(matches!(step, Step::Landed(_)), there);
        prop_assert!(!matches!(step, Step::Lost | Step::Close));
        // A nonce that is taken is not sent to again; one that may still be ours is given up for good reasons only.
        if nonce > NONCE {
            prop_assert!(!matches!(step, Step::Send | Step::Replace));
        }
        if step == Step::Abandon && nonce <= NONCE && !gap {
            prop_assert_eq!(seen.refused, Some(Refusal::Final));
        }
        if step == Step::Replace {
            prop_assert!(tries < TRIES_MAX as u64);
        }
    }
}
