//! What is shown of books that commands filled, with and without a connection.

use std::time::Duration;

use serde_json::{Value, json};

use super::events::{self, EventBody, Names};
use super::jobs::job_of;
use super::metrics::metrics_of;
use super::picture::{Own, Picture};
use super::site::{Reset, may_reset};
use super::status::status_of;
use super::{alarms, amount, chain_name, letters, transactions};
use crate::api::decode;
use crate::api::problem::Code;
use crate::api::request::Request;
use crate::chain::{self, Event, Generation, Options, Signer, Timing, View, What, worker_felt};
use crate::domain::apply::Position;
use crate::domain::chain::{
    Act, Block, Bounds, Call, Confirmation, Felt, Item, Landed, Payment, Policy, Site, Stage, Terms, Transaction, U256,
};
use crate::domain::command::{Reply, Submit};
use crate::domain::job::Source;
use crate::domain::worker::Capabilities;
use crate::domain::{Command, Digest, JobId, PeerId, Price, Record, State, Timestamp};
use crate::submission::Submission;

const CONTRACT: u64 = 0xc0;
const ACCOUNT: u64 = 0xacc;

fn felt(number: u64) -> Felt {
    Felt::from(number)
}

pub(in crate::api) fn job(n: u8) -> JobId {
    JobId([n; 16])
}

fn site() -> Site {
    Site { chain_id: Felt::short(b"SN_SEPOLIA").unwrap(), contract: felt(CONTRACT), account: felt(ACCOUNT) }
}

pub(in crate::api) fn apply(state: &mut State, command: Command) -> Reply {
    let position = Position { index: state.applied() + 1, term: 1 };
    let at = Timestamp(1_764_000_000_000 + position.index * 1_000);
    state.apply(position, &Record { at, commands: vec![command] }).remove(0)
}

pub(in crate::api) fn act(state: &mut State, act: Act) {
    let reply = apply(state, Command::Chain(act));
    assert!(reply.is_ok(), "{reply:?}");
}

fn submit(state: &mut State, id: JobId, policy: Policy) {
    let submission: Submission = decode::json(br#"{"type":"sha256","payload":"aGk=","max_price":"40"}"#).unwrap();
    let mut spec = submission.check(16).unwrap().spec;
    spec.settlement = Some(Terms { policy, confirmation: Confirmation::AcceptedL2 });
    spec.redundancy = 3;
    let submit =
        Submit { id, spec, payload: Some(b"hi".to_vec()), fingerprint: Digest::default(), source: Source::Api };
    apply(state, Command::Submit(Box::new(submit))).unwrap();
}

fn item(seq: u64, job: JobId) -> Item {
    let call = Call { to: felt(CONTRACT), selector: felt(0x5e1), calldata: vec![felt(1), felt(seq)] };
    Item { seq, job, stage: Stage::Register, calls: vec![call], payees: vec![] }
}

fn transaction(nonce: u64, hash: u64, items: Vec<Item>) -> Box<Transaction> {
    let lead = vec![Call { to: felt(CONTRACT), selector: felt(0xe), calldata: vec![felt(1)] }];
    let bounds = Bounds { l2_gas: 10, l2_gas_price: 7, ..Bounds::default() };
    Box::new(Transaction { nonce, hash: felt(hash), epoch: 1, lead, items, bounds })
}

pub(in crate::api) fn landed(hash: u64, confirmation: Confirmation, reverted: Option<&str>) -> Box<Landed> {
    let block = (confirmation > Confirmation::Preconfirmed).then_some(Block { number: 9, hash: felt(0xb10c) });
    let reverted = reverted.map(Into::into);
    Box::new(Landed { hash: felt(hash), block, confirmation, fee: 100, reverted, ids: vec![] })
}

/// Four jobs: 1 is registered (nonce 5), 2 reverted (nonce 6) and is planned again, 3 waits to be run (nonce 7, twice
/// tried), 4 is parked.
pub(in crate::api) fn state() -> State {
    let mut state = State::default();
    act(&mut state, Act::Claim { site: site(), least: 1 });
    for n in 1..=4 {
        submit(&mut state, job(n), if n == 3 { Policy::RegisterBeforeDistribution } else { Policy::SettleLater });
    }
    for (n, nonce) in [(1, 5), (2, 6), (3, 7)] {
        let transaction = transaction(nonce, 0x100 + nonce, vec![item(n, job(n as u8))]);
        act(&mut state, Act::Prepare { transaction, through: n });
        let outcome = match nonce {
            5 => landed(0x105, Confirmation::AcceptedL2, None),
            6 => landed(0x106, Confirmation::AcceptedL2, Some("0x1 ('SPEC_MISMATCH')")),
            _ => continue,
        };
        act(&mut state, Act::Landed { nonce, landed: outcome });
    }
    act(&mut state, Act::Prepare { transaction: transaction(7, 0x207, vec![item(3, job(3))]), through: 3 });
    let parked = vec![(item(4, job(4)), "payment_too_low".into(), "the contract takes no less than 50".into())];
    act(&mut state, Act::Park { parked, through: 4 });
    state
}

fn options() -> Options {
    Options {
        rpc: vec![],
        chain_id: None,
        contract: felt(CONTRACT),
        account: felt(ACCOUNT),
        signer: Signer::None,
        generation: Generation::Auto,
        policy: Some(Policy::SettleLater),
        confirmation: Confirmation::AcceptedL2,
        default_max_price: Some(Price(40)),
        max_escrow: None,
        charge_clients: false,
        batch_calls: 150,
        batch_wait: Duration::from_millis(500),
        max_fee: Some(1_000),
        max_spend_per_hour: Some(10_000),
        tip: 3,
        replace_after: Duration::from_secs(60),
        watch_blocks: 10,
        follow_from: None,
        timing: Timing::default(),
    }
}

fn small(number: u128) -> U256 {
    U256 { high: 0, low: number }
}

pub(in crate::api) fn own() -> Own {
    let contract = chain::Contract {
        address: felt(CONTRACT),
        class_hash: felt(0xc1a55),
        generation: Generation::Full,
        capabilities: &["submit_ai_job", "settle_job"],
        paused: Some(false),
        token: Some(felt(0x70)),
        fee_recipient: Some(felt(0xfee)),
        fee_bps: Some(250),
        min_payment: Some(small(10)),
        escrow: Some(small(120)),
        epoch: Some(1),
        coordinator: Some(true),
    };
    let payment = Some(chain::Token { balance: small(5_000), allowance: small(4_000) });
    let account = chain::Account {
        address: felt(ACCOUNT),
        nonce: Some(8),
        balance: small(70_000),
        payment,
        key_fits: Some(true),
    };
    let view = View {
        state: chain::State::Connected,
        rpc_url: Some("http://127.0.0.1:5050".to_owned()),
        chain_id: Some(site().chain_id),
        block: Some(Block { number: 12, hash: felt(0xb12) }),
        contract: Some(contract),
        account: Some(account),
        gas_prices: Some(chain::GasPrices { l1: 1, l2: 2, l1_data: 3 }),
        last_error: None,
        alarms: vec![],
        as_of: Some(Timestamp(1_764_000_000_000)),
    };
    Own { view, options: options() }
}

pub(in crate::api) fn picture(own: Option<Own>, state: &State) -> Picture {
    Picture::from_parts(own, state, state.now())
}

fn codes(picture: &Picture) -> Vec<&'static str> {
    picture.alarms().iter().map(|alarm| alarm.code).collect()
}

fn list(state: &State, query: Vec<(&'static str, String)>) -> Value {
    json!(transactions::list_of(state, &Request::with_query(query)))
}

#[test]
fn a_status_joins_the_books_with_what_this_node_sees() {
    let status = json!(status_of(&picture(Some(own()), &state())));
    for (field, value) in [
        ("state", json!("connected")),
        ("chain_id", json!("SN_SEPOLIA")),
        ("block_number", json!(12)),
        ("job_manager_address", json!("0xc0")),
        ("account_address", json!("0xacc")),
        ("balance", json!("70000")),
        ("nonce", json!(8)),
        ("key_fits", json!(true)),
        ("payment_allowance", json!("4000")),
        ("epoch", json!(1)),
        ("next_nonce", json!(8)),
        ("pending_transactions", json!(1)),
        ("watched_transactions", json!(2)),
        ("again", json!(1)),
        ("parked", json!(1)),
        ("journal_cursor", json!(4)),
        ("unsettled", json!(0)),
        ("last_error", Value::Null),
    ] {
        assert_eq!(status[field], value, "{field}");
    }
    let contract = &status["contract"];
    assert_eq!((&contract["generation"], &contract["fee_bps"]), (&json!("full"), &json!(250)));
    assert_eq!((&contract["capabilities"][1], &contract["escrow"]), (&json!("settle_job"), &json!("120")));
    assert_eq!((&status["fees"]["max_fee"], &status["fees"]["spent_this_hour"]), (&json!("1000"), &json!("200")));
    let settlement = json!({"policy": "settle_later", "confirmation": "accepted_l2", "default_max_price": "40",
        "max_escrow": null, "charge_clients": false});
    assert_eq!(status["settlement"], settlement);
    let recorded = json!({"chain_id": "SN_SEPOLIA", "job_manager_address": "0xc0", "account_address": "0xacc"});
    assert_eq!(status["recorded"], recorded);
    assert_eq!(status["alarms"].as_array().unwrap().len(), 1, "of the parked one: {}", status["alarms"]);
}

#[test]
fn a_node_without_the_chain_still_tells_what_is_replicated_and_makes_nothing_up() {
    let status = json!(status_of(&picture(None, &state())));
    assert_eq!((&status["state"], &status["pending_transactions"]), (&json!("disabled"), &json!(1)));
    for field in ["rpc_url", "chain_id", "block_number", "balance", "nonce", "account_address", "settlement"] {
        assert!(status[field].is_null(), "{field}: {}", status[field]);
    }
    assert_eq!(status["recorded"]["chain_id"], "SN_SEPOLIA");
    let empty = json!(status_of(&picture(None, &State::default())));
    assert_eq!((&empty["journal_cursor"], &empty["unsettled"]), (&Value::Null, &json!(0)));
    assert_eq!((&empty["alarms"], &empty["recorded"]), (&json!([]), &Value::Null));
}

#[test]
fn transactions_are_told_of_newest_first_with_what_became_of_them() {
    let mut state = state();
    let all = list(&state, vec![]);
    let told: Vec<_> =
        all["transactions"].as_array().unwrap().iter().map(|one| (&one["nonce"], &one["state"])).collect();
    let [nonces, states] = [[7, 6, 5].map(Value::from), ["prepared", "reverted", "accepted_l2"].map(Value::from)];
    assert_eq!(told, nonces.iter().zip(&states).collect::<Vec<_>>());
    let [waits, reverted, good] = [0, 1, 2].map(|at| all["transactions"][at].clone());
    assert_eq!((&waits["hash"], &waits["tries"]), (&json!("0x207"), &json!(["0x107", "0x207"])));
    assert_eq!((&waits["fee"], &waits["block"], &waits["landed_at"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((&reverted["error"], &reverted["fee"]), (&json!("0x1 ('SPEC_MISMATCH')"), &json!("100")));
    assert_eq!((&good["job_ids"], &good["calls"]), (&json!([job(1).to_string()]), &json!(2)));
    assert_eq!((&good["block"], &good["block_hash"], &good["closed"]), (&json!(9), &json!("0xb10c"), &json!(false)));

    act(&mut state, Act::Close { nonce: 5 });
    act(&mut state, Act::Abandon { nonce: 7 });
    let first = list(&state, vec![("limit", "2".to_owned())]);
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(first["transactions"][0]["state"], "abandoned");
    let second = list(&state, vec![("limit", "2".to_owned()), ("cursor", cursor)]);
    assert_eq!((second["transactions"].as_array().map(Vec::len), &second["next_cursor"]), (Some(1), &Value::Null));
    let closed = &second["transactions"][0];
    assert_eq!((&closed["nonce"], &closed["closed"], &closed["calls"]), (&json!(5), &json!(true), &json!(2)));
    assert_eq!(closed["state"], "accepted_l2");
}

#[test]
fn transactions_are_found_by_state_and_by_job() {
    let state = state();
    let nonces = |query| -> Vec<u64> {
        let found = list(&state, query);
        found["transactions"].as_array().unwrap().iter().filter_map(|one| one["nonce"].as_u64()).collect()
    };
    assert_eq!(nonces(vec![("state", "reverted".to_owned())]), [6]);
    assert_eq!(nonces(vec![("state", "accepted_l1".to_owned())]), [0; 0]);
    assert_eq!(nonces(vec![("job", job(1).to_string())]), [5]);
    assert_eq!(nonces(vec![("job", job(4).to_string())]), [0; 0], "what is parked is in none");
    assert_eq!(nonces(vec![("job", job(3).to_string()), ("state", "prepared".to_owned())]), [7]);
}

#[test]
fn figures_count_what_landed_and_why_it_did_not() {
    let state = state();
    let figures = json!(metrics_of(&picture(Some(own()), &state), &state));
    for (field, value) in [
        ("transactions_sent", json!(3)),
        ("transactions_confirmed", json!(1)),
        ("transactions_reverted", json!(1)),
        ("transactions_pending", json!(1)),
        ("calls", json!(2)),
        ("fees_total", json!("200")),
        ("fee_per_call", json!("100")),
        ("confirm_p50_ms", json!(1_000)),
        ("confirm_max_ms", json!(1_000)),
        ("reverts_by_reason", json!({"SPEC_MISMATCH": 1})),
    ] {
        assert_eq!(figures[field], value, "{field}");
    }
    let none = json!(metrics_of(&picture(None, &State::default()), &State::default()));
    assert_eq!((&none["confirm_p50_ms"], &none["fee_per_call"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_job_tells_its_settlement_in_full() {
    let mut state = state();
    let of = |state: &State, n: u8| json!(job_of(state, state.job(job(n)).unwrap()));
    let good = of(&state, 1);
    assert_eq!((&good["settlement"]["state"], &good["escrow"]), (&json!("registered"), &json!("120")), "{good}");
    assert_eq!(good["settlement"]["chain_job"], U256::of(job(1)).to_string());
    assert_eq!(good["settlement"]["registered"]["transaction_hash"], "0x105");
    assert_eq!((&good["transactions"][0]["stage"], &good["transactions"][0]["block"]), (&json!("register"), &json!(9)));
    let reverted = of(&state, 2);
    assert_eq!(reverted["settlement"]["state"], "waiting", "{reverted}");
    assert_eq!((&reverted["again"][0]["tries"], &reverted["again"][0]["stage"]), (&json!(1), &json!("register")));
    let waits = of(&state, 3);
    assert_eq!(
        (&waits["awaits_chain"], &waits["settlement"]["registered"]["confirmation"]),
        (&json!(true), &Value::Null)
    );
    let parked = of(&state, 4);
    assert_eq!((&parked["settlement"]["state"], &parked["settlement"]["parked"]), (&json!("parked"), &json!(["4"])));
    assert_eq!(parked["parked"][0]["code"], "payment_too_low");

    act(&mut state, Act::Landed { nonce: 7, landed: landed(0x207, Confirmation::Preconfirmed, None) });
    let early = of(&state, 3);
    assert_eq!((&early["awaits_chain"], &early["settlement"]["state"]), (&json!(true), &json!("waiting")), "too early");
    act(&mut state, Act::Landed { nonce: 7, landed: landed(0x207, Confirmation::AcceptedL2, None) });
    assert_eq!(of(&state, 3)["awaits_chain"], false);
    let to = Block { number: 9, hash: felt(1) };
    let payments = vec![Payment { job: U256::of(job(1)), block: 9, payee: felt(5), amount: 39 }];
    act(&mut state, Act::Followed { from: 9, to, arrivals: vec![], payments });
    let paid = of(&state, 1);
    assert_eq!(paid["settlement"]["paid"], "39");
    assert_eq!(paid["payments"], json!([{"payee": "0x5", "amount": "39", "block": 9}]));
}

#[test]
fn what_is_parked_is_listed_shown_retried_and_dropped() {
    let mut state = state();
    let page = json!(letters::list_of(&state, &Request::with_query(vec![])));
    assert_eq!((&page["size"], &page["next_cursor"]), (&json!(1), &Value::Null));
    let entry = &page["entries"][0];
    for (field, value) in [
        ("id", json!("4")),
        ("job_id", json!(job(4).to_string())),
        ("stage", json!("register")),
        ("code", json!("payment_too_low")),
        ("reason", json!("the contract takes no less than 50")),
        ("calls", json!(1)),
    ] {
        assert_eq!(entry[field], value, "{field}");
    }
    let whole = json!(letters::whole_of(&state, 4).unwrap());
    let call = json!({"to": "0xc0", "selector": "0x5e1", "calldata": ["0x1", "0x4"]});
    assert_eq!(whole["contract_calls"], json!([call]));
    assert!(letters::whole_of(&state, 3).is_none());
    act(&mut state, Act::Retry { seq: 4 });
    assert!(letters::list_of(&state, &Request::with_query(vec![])).entries.is_empty());
    let again = json!(job_of(&state, state.job(job(4)).unwrap()));
    assert_eq!((&again["settlement"]["state"], &again["again"][0]["id"]), (&json!("waiting"), &json!("4")));
    let refused = apply(&mut state, Command::Chain(Act::Drop { seq: 4 })).unwrap_err();
    assert_eq!(crate::api::Problem::from(refused).code, Code::UnknownDeadLetter);
}

#[test]
fn each_alarm_is_raised_by_its_cause_alone() {
    let state = {
        let mut state = State::default();
        act(&mut state, Act::Claim { site: site(), least: 1 });
        state
    };
    let of = |change: fn(&mut Own)| {
        let mut own = own();
        change(&mut own);
        codes(&picture(Some(own), &state))
    };
    assert!(of(|_| {}).is_empty());
    assert_eq!(of(|own| own.view.state = chain::State::Down), ["down"]);
    assert_eq!(of(|own| own.view.state = chain::State::Paused), ["paused"]);
    assert_eq!(of(|own| own.options.contract = felt(1)), ["other_chain"]);
    assert_eq!(of(|own| own.view.chain_id = Some(felt(1))), ["other_chain"]);
    assert_eq!(of(|own| own.view.account.as_mut().unwrap().balance = small(999)), ["balance_low"]);
    let poor = |own: &mut Own, balance, allowance| {
        let payment = chain::Token { balance: small(balance), allowance: small(allowance) };
        own.view.account.as_mut().unwrap().payment = Some(payment);
    };
    for (balance, allowance) in [(39, 1_000), (1_000, 39)] {
        let mut own = own();
        poor(&mut own, balance, allowance);
        assert_eq!(codes(&picture(Some(own), &state)), ["escrow_low"], "{balance} {allowance}");
    }
    assert_eq!(of(|own| own.view.alarms = vec!["settle: STALE_EPOCH".to_owned()]), ["duty"]);
    let with = |change: fn(&mut Picture)| {
        let mut picture = picture(Some(own()), &state);
        change(&mut picture);
        codes(&picture)
    };
    assert_eq!(with(|picture| picture.spent_this_hour = 10_000), ["spend_limit"]);
    assert_eq!(with(|picture| picture.parked = 1), ["parked"]);
    assert_eq!(with(|picture| picture.parked = 7_999), ["parked"]);
    assert_eq!(with(|picture| picture.parked = 8_000), ["parked", "parked_near_bound"]);
    assert_eq!(with(|picture| picture.unsettled = 800_000), ["journal_near_bound"]);
    assert!(with(|picture| picture.unsettled = 799_999).is_empty());
    assert_eq!(with(|picture| picture.lost = 1), ["events_lost"]);
    let mut unseen = own();
    unseen.view =
        View { state: chain::State::Connecting, contract: None, account: None, chain_id: None, ..unseen.view };
    assert!(codes(&picture(Some(unseen), &state)).is_empty(), "what was not seen is not alarming");
}

#[test]
fn every_alarm_is_documented_and_a_label() {
    let page = include_str!("../../../docs/chain.md");
    for code in alarms::CODES {
        assert!(page.contains(&format!("| `{code}` |")), "{code} in docs/chain.md");
    }
    let gauges = picture(Some(own()), &state()).gauges();
    assert_eq!(gauges.alarms.values().filter(|raised| **raised).count(), 1);
    assert_eq!((gauges.balance, gauges.fees, gauges.waiting), (Some(70_000.0), 200, 1));
    assert_eq!(gauges.outcomes, [("succeeded", 1), ("reverted", 1), ("abandoned", 0)]);
}

#[test]
fn only_what_this_node_is_configured_with_and_sees_may_be_accepted() {
    let reset = |chain: &str, contract: &str| {
        let body = json!({"chain_id": chain, "job_manager_address": contract, "account_address": "0xACC"});
        decode::json::<Reset>(body.to_string().as_bytes()).unwrap().check()
    };
    for (chain, contract, field) in [("", "0xc0", "chain_id"), ("SN_SEPOLIA", "c0", "job_manager_address")] {
        assert_eq!(reset(chain, contract).unwrap_err().field.as_deref(), Some(field));
    }
    let wanted = reset("SN_SEPOLIA", "0x00c0").unwrap();
    assert_eq!((&wanted, reset(&site().chain_id.to_string(), "0xc0").unwrap()), (&site(), site()));
    let state = state();
    assert!(may_reset(&picture(Some(own()), &state), &wanted).is_ok());
    let other = Site { contract: felt(1), ..site() };
    assert_eq!(may_reset(&picture(Some(own()), &state), &other).unwrap_err().code, Code::Conflict);
    let mut unseen = own();
    unseen.view.chain_id = None;
    assert_eq!(may_reset(&picture(Some(unseen), &state), &wanted).unwrap_err().code, Code::Conflict);
    assert_eq!(may_reset(&picture(None, &state), &wanted).unwrap_err().code, Code::NotAvailable);
}

#[test]
fn events_are_asked_for_in_bounded_ranges() {
    let of = |query: &[(&'static str, u64)], head| {
        let query = query.iter().map(|(name, value)| (*name, value.to_string())).collect();
        events::range(&Request::with_query(query), head).ok()
    };
    assert_eq!(of(&[], 500), Some((401, 500)));
    assert_eq!(of(&[], 7), Some((0, 7)));
    assert_eq!(of(&[("from", 0)], 5_000), Some((0, 999)));
    assert_eq!(of(&[("from", 8)], 5), Some((8, 8)), "a block to come");
    assert_eq!(of(&[("to", 50)], 500), Some((0, 50)));
    assert_eq!(of(&[("from", 1), ("to", 1_000)], 0), Some((1, 1_000)));
    for bad in [[("from", 1), ("to", 1_001)], [("from", 2), ("to", 1)]] {
        assert_eq!(of(&bad, 0), None, "{bad:?}");
    }
}

#[test]
fn events_name_our_own_jobs_and_workers() {
    let mut state = state();
    let worker = PeerId([3; 32]);
    let register = Command::RegisterWorker {
        worker,
        capabilities: Box::new(Capabilities { max_parallel_jobs: 1, ..Capabilities::default() }),
        location: Default::default(),
        version: "1".to_owned(),
    };
    apply(&mut state, register).unwrap();
    let names = Names::of(&state);
    let told = |what| {
        let block = Some(Block { number: 3, hash: felt(0xb3) });
        json!(EventBody::of(&Event { block, transaction: felt(0x7), what }, &names))
    };
    let assigned = told(What::Assigned { job: U256::of(job(1)), worker: worker_felt(worker) });
    assert_eq!((&assigned["event"], &assigned["block"]), (&json!("JobAssigned"), &json!(3)));
    assert_eq!((&assigned["job_id"], &assigned["worker_id"]), (&json!(job(1).to_string()), &json!(worker.to_string())));
    let big = U256 { high: 1, low: 5 };
    let theirs = told(What::Paid { job: small(5), payee: felt(0xee), amount: big });
    assert_eq!((&theirs["chain_job"], &theirs["job_id"]), (&json!("0x5"), &Value::Null));
    assert_eq!(theirs["amount"], "340282366920938463463374607431768211461");
}

#[test]
fn amounts_and_names_are_told_in_full() {
    assert_eq!(amount(U256::default()), "0");
    assert_eq!(amount(small(u128::MAX)), u128::MAX.to_string());
    let most = U256 { high: u128::MAX, low: u128::MAX };
    assert_eq!(amount(most), "115792089237316195423570985008687907853269984665640564039457584007913129639935");
    assert_eq!(amount(U256 { high: 1 << 100, low: 0 }), (1..=228).fold("1".to_owned(), |digits, _| doubled(&digits)));
    assert_eq!(chain_name(site().chain_id), "SN_SEPOLIA");
    assert_eq!((chain_name(Felt::ZERO), chain_name(felt(7))), ("0x0".to_owned(), "0x7".to_owned()));
}

/// Twice a number in decimal digits, as it is done by hand.
fn doubled(digits: &str) -> String {
    let (mut carry, mut out) = (0, String::new());
    for digit in digits.bytes().rev() {
        let twice = u32::from(digit - b'0') * 2 + carry;
        out.insert(0, char::from_digit(twice % 10, 10).unwrap());
        carry = twice / 10;
    }
    if carry > 0 { format!("{carry}{out}") } else { out }
}
