//! What is short or shut is told in words that say what to do.

use super::*;
use crate::chain::{Account, Contract, Generation, Token};
use crate::domain::chain::Felt;

const ROOMY: Purse = Purse { balance: None, max_fee: None, max_spend_per_hour: None, spent: 0, reserved: 0 };

/// At most 1 000.
const BOUNDS: Bounds =
    Bounds { l1_gas: 0, l1_gas_price: 0, l2_gas: 90, l2_gas_price: 9, l1_data_gas: 10, l1_data_gas_price: 10, tip: 1 };

fn amount(low: u128) -> U256 {
    U256 { high: 0, low }
}

#[test]
fn what_can_be_paid_for() {
    let exact = Some(amount(1_000));
    let rows = [
        (ROOMY, Ok(())),
        (Purse { max_fee: Some(1_000), balance: exact, max_spend_per_hour: Some(1_000), ..ROOMY }, Ok(())),
        (Purse { max_fee: Some(999), ..ROOMY }, Err(Short::Fee { most: 1_000, limit: 999 })),
        (Purse { balance: Some(amount(999)), ..ROOMY }, Err(Short::Balance { most: 1_000, balance: amount(999) })),
        (Purse { balance: exact, reserved: 1, ..ROOMY }, Err(Short::Balance { most: 1_001, balance: amount(1_000) })),
        (Purse { balance: Some(U256 { high: 1, low: 0 }), ..ROOMY }, Ok(())),
        (
            Purse { max_spend_per_hour: Some(1_500), spent: 300, reserved: 201, ..ROOMY },
            Err(Short::Hour { most: 1_000, spent: 501, limit: 1_500 }),
        ),
        (Purse { max_spend_per_hour: Some(1_500), spent: 300, reserved: 200, ..ROOMY }, Ok(())),
        (Purse { spent: u128::MAX, reserved: u128::MAX, ..ROOMY }, Ok(())),
    ];
    for (purse, verdict) in rows {
        assert_eq!(purse.check(&BOUNDS), verdict, "{purse:?}");
        if let Err(short) = verdict {
            assert!(short.worry().1.starts_with("nothing is sent"));
        }
    }
}

#[test]
fn whom_a_word_blames() {
    for (word, whom) in [
        ("spec_mismatch", Blame::Item),
        ("deadline_past", Blame::Item),
        ("stale_epoch", Blame::Epoch),
        ("STALE_EPOCH", Blame::Epoch),
        ("paused", Blame::Shut),
        ("not_coordinator", Blame::Shut),
        ("balance_too_low", Blame::Payment),
        ("allowance_too_low", Blame::Payment),
        ("erc20: insufficient balance", Blame::Payment),
        ("erc20: insufficient allowance", Blame::Payment),
        ("u256_sub overflow", Blame::Payment),
        ("u256_mul overflow", Blame::Item),
        ("", Blame::Item),
    ] {
        assert_eq!(blame(word), whom, "{word}");
    }
}

fn view() -> View {
    let contract = Contract {
        address: Felt::from(1u64),
        class_hash: Felt::from(2u64),
        generation: Generation::Full,
        capabilities: &[],
        paused: Some(false),
        token: None,
        fee_recipient: None,
        fee_bps: None,
        min_payment: None,
        escrow: None,
        epoch: Some(1),
        coordinator: Some(true),
    };
    let account = Account {
        address: Felt::from(3u64),
        nonce: Some(0),
        balance: amount(1),
        payment: Some(Token { balance: amount(500), allowance: amount(700) }),
        key_fits: Some(true),
    };
    View { state: Connection::Connected, contract: Some(contract), account: Some(account), ..View::disabled() }
}

fn site() -> Site {
    Site { chain_id: Felt::short(b"SN_TEST").unwrap(), contract: Felt::from(1u64), account: Felt::from(3u64) }
}

#[test]
fn what_is_shut() {
    let changed = |change: fn(&mut View)| {
        let mut view = view();
        change(&mut view);
        shut(&view, &site(), Some(&site()))
    };
    assert_eq!(changed(|_| {}), None);
    let told = |change: fn(&mut View), worry: Worry, words: &str| {
        let (found, text) = changed(change).unwrap();
        assert_eq!(found, worry, "{text}");
        assert!(text.contains(words), "{text}");
    };
    told(|view| view.state = Connection::Down, Worry::Down, "when it is back");
    told(|view| view.state = Connection::Connecting, Worry::Down, "not answered yet");
    told(
        |view| (view.state, view.last_error) = (Connection::Down, Some("SN_MAIN is another chain".to_owned())),
        Worry::Down,
        "another chain",
    );
    told(
        |view| (view.state, view.last_error) = (Connection::Paused, Some("no Job Manager there".to_owned())),
        Worry::Shut,
        "no Job Manager there",
    );
    told(|view| view.contract.as_mut().unwrap().paused = Some(true), Worry::Shut, "unpause");
    told(|view| view.contract.as_mut().unwrap().coordinator = Some(false), Worry::Shut, "set_coordinator");
    told(|view| view.account.as_mut().unwrap().key_fits = Some(false), Worry::Key, "not that of account 0x3");
    told(|view| view.account.as_mut().unwrap().key_fits = None, Worry::Key, "blockchain.keystore");
    told(|view| view.account.as_mut().unwrap().nonce = None, Worry::Key, "not deployed");
}

#[test]
fn books_of_another_site_are_not_touched() {
    let other = Site { contract: Felt::from(9u64), ..site() };
    let (worry, text) = shut(&view(), &site(), Some(&other)).unwrap();
    assert_eq!(worry, Worry::Site);
    for words in ["0x9", "0x1", "SN_TEST", "blockchain reset"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(shut(&view(), &site(), None), None, "the first leader ever");
}
