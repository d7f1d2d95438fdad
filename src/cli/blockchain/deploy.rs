//! `blockchain deploy`: the contract put on a chain, and what to configure then.

use std::io::Write;

use serde_json::{Value, json};

use super::args;
use super::session::{Session, failed};
use crate::chain::deploy::{Deployed, Plan, Step, deploy};
use crate::chain::keys::ACCOUNT_CLASS;
use crate::cli::failure::Failure;
use crate::cli::{Remote, output};
use crate::domain::chain::{Felt, U256};

pub async fn run(args: args::Deploy, remote: &Remote) -> Result<(), Failure> {
    let session = Session::new(&args.chain)?;
    if session.config.blockchain.account_address.is_none() {
        return Err(Failure::usage("no account is named").hint("name it with --account, or in --config"));
    }
    let class = args.origin.account_class.or_else(|| ACCOUNT_CLASS.parse().ok()).unwrap_or_default();
    let anything = U256 { high: u128::MAX, low: u128::MAX };
    let plan = Plan {
        token: args.token,
        fee_recipient: args.fee_recipient,
        fee_bps: args.fee_bps,
        min_payment: args.min_payment,
        allowance: args.allowance.map_or(anything, |low| U256 { high: 0, low }),
        salt: args.salt,
        account: Some((class, args.origin.account_salt)),
    };
    let handle = session.signing()?;
    let mut steps = vec![];
    let mut tell = |step: &Step| {
        steps.push(about(step));
        if !remote.json {
            let done = step.transaction.map_or_else(|| "was there".to_owned(), |hash| format!("transaction {hash}"));
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "{}: {} ({done})", step.what, step.at);
        }
    };
    let deployed = deploy(&handle, &plan, &mut tell).await.map_err(|error| failed(&error))?;
    if remote.json {
        return output::json(&whole(&deployed, steps));
    }
    output::bytes(section(&deployed).as_bytes())
}

fn about(step: &Step) -> Value {
    json!({ "what": step.what, "at": step.at, "transaction_hash": step.transaction })
}

fn whole(deployed: &Deployed, steps: Vec<Value>) -> Value {
    json!({
        "chain_id": chain_name(deployed.chain_id),
        "account_address": deployed.account,
        "class_hash": deployed.class_hash,
        "job_manager_address": deployed.contract,
        "token_address": deployed.token,
        "follow_from_block": deployed.block,
        "steps": steps,
    })
}

/// What belongs into the configuration of every node; the rest of the section depends on the node.
fn section(deployed: &Deployed) -> String {
    let block = deployed.block.map(|block| format!("follow_from_block = \"{block}\"\n")).unwrap_or_default();
    format!(
        "[blockchain]\nchain_id = \"{}\"\njob_manager_address = \"{}\"\naccount_address = \"{}\"\n{block}",
        chain_name(deployed.chain_id),
        deployed.contract,
        deployed.account,
    )
}

/// `SN_SEPOLIA`, or the number if it is no name.
pub fn chain_name(chain: Felt) -> String {
    let text = String::from_utf8(chain.text().to_vec()).ok();
    let text = text.filter(|text| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    text.unwrap_or_else(|| chain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn what_is_printed_is_a_configuration() {
        let deployed = Deployed {
            chain_id: Felt::short(b"SN_SEPOLIA").unwrap(),
            account: Felt::from(2u64),
            class_hash: Felt::from(3u64),
            contract: Felt::from(4u64),
            token: Felt::from(5u64),
            block: Some(6),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, section(&deployed)).unwrap();
        let (config, _) = Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
        let told = config.blockchain;
        assert_eq!((told.chain_id, told.job_manager_address), (Some(deployed.chain_id), Some(deployed.contract)));
        assert_eq!((told.account_address, told.follow_from_block), (Some(deployed.account), Some(6)));
        assert_eq!(chain_name(Felt::from(1u64)), "0x1");
        assert_eq!(whole(&deployed, vec![])["chain_id"], "SN_SEPOLIA");
    }
}
