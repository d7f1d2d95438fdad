//! `blockchain account …`: keys in keystores, and the accounts they are for.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::args::{Account, Import, Make, Origin, Show};
use super::deploy::chain_name;
use super::session::{Session, failed, type_secret};
use crate::chain::keys::{self, ACCOUNT_CLASS, Key};
use crate::chain::{Error, Handle};
use crate::cli::failure::Failure;
use crate::cli::{Remote, output};
use crate::domain::chain::{Felt, U256};

pub async fn run(command: Account, remote: &Remote) -> Result<(), Failure> {
    match command {
        Account::New(args) => new(&args, remote),
        Account::Import(args) => import(&args, remote),
        Account::Show(args) => show(&args, remote).await,
        Account::FundHint(args) => fund_hint(&args, remote).await,
    }
}

fn new(args: &Make, remote: &Remote) -> Result<(), Failure> {
    let session = Session::new(&args.chain)?;
    let path = keystore(&session)?;
    let key = keys::create(&path, &session.password(true)?).map_err(|error| failed(&error))?;
    told(about(&session, &args.origin, &key, &path, false), remote)
}

fn import(args: &Import, remote: &Remote) -> Result<(), Failure> {
    let session = Session::new(&args.make.chain)?;
    let path = keystore(&session)?;
    let text = match &args.key_file {
        Some(file) => keys::read_secret(file, "key file").map_err(|error| failed(&error))?,
        None => type_secret("private key: ")?,
    };
    let unfit = || Failure::usage("this is no private key").hint("expected 0x and 1 to 64 hex digits");
    let secret: Felt = text.trim().parse().map_err(|_| unfit())?;
    let key = keys::import(&path, &session.password(true)?, secret).map_err(|error| failed(&error))?;
    told(about(&session, &args.make.origin, &key, &path, true), remote)
}

async fn show(args: &Show, remote: &Remote) -> Result<(), Failure> {
    let (session, mut about) = of_keystore(args)?;
    if !args.offline {
        let address = felt(&about["account_address"]);
        let handle = session.watching(address)?;
        about.extend(seen(&handle, address).await.map_err(|error| failed(&error))?);
    }
    told(about, remote)
}

async fn fund_hint(args: &Show, remote: &Remote) -> Result<(), Failure> {
    let (session, about) = of_keystore(args)?;
    let address = felt(&about["account_address"]);
    let mut hint = Map::from_iter([("account_address".to_owned(), json!(address))]);
    if !args.offline {
        let handle = session.watching(address)?;
        hint.extend(seen(&handle, address).await.map_err(|error| failed(&error))?);
    }
    let url = session.options.rpc.first().map(|rpc| rpc.shown.clone()).unwrap_or_default();
    hint.insert("how".to_owned(), json!(how(hint.get("chain_id").and_then(Value::as_str), &url, address)));
    told(hint, remote)
}

/// How this account comes to STRK on this chain.
fn how(chain: Option<&str>, url: &str, address: Felt) -> String {
    let local = ["//127.0.0.1", "//localhost", "//[::1]"].iter().any(|host| url.contains(host));
    match chain {
        _ if local => format!(
            "on a devnet: curl {url} -H 'content-type: application/json' -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\
             \"method\":\"devnet_mint\",\"params\":{{\"address\":\"{address}\",\"amount\":1000000000000000000000,\
             \"unit\":\"FRI\"}}}}'"
        ),
        Some("SN_SEPOLIA") => {
            format!("send test STRK to {address}, for example from https://starknet-faucet.vercel.app; then deploy")
        }
        _ => format!("send STRK to {address}; 10 STRK are enough to deploy and for thousands of jobs"),
    }
}

/// The account of the configured keystore; of the configured address where nobody may ask for the password.
fn of_keystore(args: &Show) -> Result<(Session, Map<String, Value>), Failure> {
    let session = Session::new(&args.make.chain)?;
    if let (Some(address), false) =
        (session.config.blockchain.account_address, session.config.blockchain.has_keystore())
    {
        return Ok((session, Map::from_iter([("account_address".to_owned(), json!(address))])));
    }
    let path = keystore(&session)?;
    let key = keys::open(&path, &session.password(false)?).map_err(|error| failed(&error))?;
    let about = about(&session, &args.make.origin, &key, &path, true);
    Ok((session, about))
}

fn keystore(session: &Session) -> Result<PathBuf, Failure> {
    match session.config.blockchain.has_keystore() {
        true => Ok(session.config.blockchain.keystore.clone()),
        false => Err(Failure::usage("no keystore is named").hint("name it with --keystore PATH, or in --config")),
    }
}

/// `known`: the configured address is meant for this key, too.
fn about(session: &Session, origin: &Origin, key: &Key, path: &std::path::Path, known: bool) -> Map<String, Value> {
    let class = origin.account_class.or_else(|| ACCOUNT_CLASS.parse().ok()).unwrap_or_default();
    let computed = keys::account_address(key.public(), class, origin.account_salt);
    let address = session.config.blockchain.account_address.filter(|_| known).unwrap_or(computed);
    let mut about = Map::new();
    about.insert("account_address".to_owned(), json!(address));
    about.insert("public_key".to_owned(), json!(key.public()));
    if address == computed {
        about.insert("account_class".to_owned(), json!(class));
        about.insert("account_salt".to_owned(), json!(origin.account_salt));
    }
    about.insert("keystore".to_owned(), json!(path));
    about
}

/// What the chain knows of the account.
async fn seen(handle: &Handle, address: Felt) -> Result<Map<String, Value>, Error> {
    let head = handle.head().await?;
    let nonce = match handle.nonce().await {
        Ok(nonce) => Some(nonce),
        Err(Error::Unfit(_)) => None,
        Err(error) => return Err(error),
    };
    let balance = handle.balance(keys::fee_token(), address).await?;
    Ok(Map::from_iter([
        ("chain_id".to_owned(), json!(handle.chain_id().map(chain_name))),
        ("block".to_owned(), json!(head.number)),
        ("deployed".to_owned(), json!(nonce.is_some())),
        ("nonce".to_owned(), json!(nonce)),
        ("balance".to_owned(), json!(amount(balance))),
    ]))
}

/// In the smallest unit.
fn amount(number: U256) -> String {
    if number.high == 0 { number.low.to_string() } else { number.to_string() }
}

fn felt(value: &Value) -> Felt {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn told(about: Map<String, Value>, remote: &Remote) -> Result<(), Failure> {
    if remote.json {
        return output::json(&Value::Object(about));
    }
    let rows = about.iter().map(|(name, value)| vec![name.replace('_', " "), output::cell(value)]).collect();
    output::table(&[], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_fits_the_chain() {
        let address = Felt::from(0xabcu64);
        assert!(how(Some("SN_SEPOLIA"), "http://127.0.0.1:5050", address).contains("devnet_mint"));
        assert!(how(Some("SN_SEPOLIA"), "https://rpc.example", address).contains("faucet"));
        assert!(how(Some("SN_MAIN"), "https://rpc.example", address).contains("STRK to 0xabc"));
        assert_eq!(amount(U256 { high: 0, low: 7 }), "7");
    }
}
