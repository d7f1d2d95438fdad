//! Putting the contract on a chain: account, classes, token, Job Manager, allowance.
//!
//! Every step looks first whether it is done already, and addresses follow from
//! what is deployed: after a failure the same is said again, and goes on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use starknet::accounts::{Account as _, AccountError, AccountFactory, AccountFactoryError, OpenZeppelinAccountFactory};
use starknet::core::types::contract::SierraClass;
use starknet::core::types::{
    ExecutionResult, FlattenedSierraClass, ReceiptBlock, StarknetError, TransactionReceipt, TransactionStatus,
};
use starknet::core::utils::{UdcUniqueness, get_udc_deployed_address};
use starknet::providers::{Provider as _, ProviderError};

use super::felts::{ours, theirs};
use super::{NOW, codes, keys};
use crate::chain::selectors;
use crate::chain::{Error, EstimateError, Handle, SendError, calls, fees};
use crate::clock;
use crate::domain::chain::{Call, Felt, U256};

/// Class hashes of the artifacts, by name.
const CLASSES: &str = include_str!("../../../contracts/artifacts/classes.json");
const JOB_MANAGER: &str = include_str!("../../../contracts/artifacts/job_manager.sierra.json");
const TOKEN: &str = include_str!("../../../contracts/artifacts/token.sierra.json");

/// Deploys what others ask it to; the same on public networks and on devnets.
const DEPLOYER: &str = "0x41a78e741e5af2fec34b695679bc6891742439f7afb8484ecd7766661ad02bf";

/// What the account has of a new token: a thousand million, with 18 digits behind the point.
const SUPPLY: u128 = 1_000_000_000 * 1_000_000_000_000_000_000;

/// How long a transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What jobs are paid in; `None`: a new token for development, of which the account has all.
    pub token: Option<Felt>,
    /// Who gets the fee; `None`: the account.
    pub fee_recipient: Option<Felt>,
    /// Of what is paid out, in hundredths of a percent.
    pub fee_bps: u16,
    /// The least a job pays, in the token's smallest unit.
    pub min_payment: u128,
    /// What the contract may take from the account.
    pub allowance: U256,
    /// Another one gives another contract.
    pub salt: Felt,
    /// Class and salt the account is deployed from, if it is not yet; they must give its address.
    pub account: Option<(Felt, Felt)>,
}

/// One thing that was done, or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: &'static str,
    /// Class hash or address.
    pub at: Felt,
    /// `None`: it was there.
    pub transaction: Option<Felt>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    pub chain_id: Felt,
    pub account: Felt,
    pub class_hash: Felt,
    pub contract: Felt,
    pub token: Felt,
    /// The block the contract was deployed in; `None`: it was there before.
    pub block: Option<u64>,
}

/// Does what is missing of `plan`, and tells of each step.
///
/// # Errors
///
/// The first that stops it. The same plan goes on where it stopped.
pub async fn deploy(handle: &Handle, plan: &Plan, tell: &mut (dyn FnMut(&Step) + Send)) -> Result<Deployed, Error> {
    handle.head().await?;
    let account = handle.options().account;
    if let Some(step) = deploy_account(handle, plan.account).await? {
        tell(&step);
    }
    let token = match plan.token {
        Some(token) => token,
        None => {
            let class = Class::of("token", TOKEN)?;
            tell(&declare(handle, &class).await?);
            let (step, _) = instance(handle, "token", &class, plan.salt, &token_arguments(account)).await?;
            tell(&step);
            step.at
        }
    };
    let class = Class::of("job manager", JOB_MANAGER)?;
    tell(&declare(handle, &class).await?);
    let arguments = [
        account,
        token,
        plan.fee_recipient.unwrap_or(account),
        Felt::from(u64::from(plan.fee_bps)),
        plan.min_payment.into(),
        Felt::ZERO,
    ];
    let (step, block) = instance(handle, "job manager", &class, plan.salt, &arguments).await?;
    tell(&step);
    tell(&allow(handle, token, step.at, plan.allowance).await?);
    let chain_id = handle.chain_id().unwrap_or_default();
    Ok(Deployed { chain_id, account, class_hash: class.hash, contract: step.at, token, block })
}

/// Name, symbol, decimals, supply, and whose it is.
fn token_arguments(account: Felt) -> [Felt; 6] {
    let short = |text: &[u8]| Felt::short(text).unwrap_or_default();
    [short(b"CIRO development"), short(b"CIRO"), Felt::from(18u64), SUPPLY.into(), Felt::ZERO, account]
}

/// A class that can be declared.
pub(super) struct Class {
    what: &'static str,
    pub(super) hash: Felt,
    /// Blake2s, as networks want it now: the crate would compute another.
    compiled: Felt,
    sierra: Arc<FlattenedSierraClass>,
}

impl Class {
    /// `name` with underscores for spaces is that of the artifact.
    pub(super) fn of(name: &'static str, sierra: &str) -> Result<Self, Error> {
        let damaged = |why: String| Error::Unfit(format!("the class of the {name} is damaged: {why}"));
        let classes: Value = serde_json::from_str(CLASSES).map_err(|error| damaged(error.to_string()))?;
        let said = &classes[name.replace(' ', "_")];
        let felt = |key: &str| said[key].as_str().and_then(|text| text.parse().ok());
        let hashes: Option<(Felt, Felt)> = felt("class_hash").zip(felt("compiled_class_hash"));
        let (hash, compiled) = hashes.ok_or_else(|| damaged("it has no hashes".to_owned()))?;
        let class: SierraClass = serde_json::from_str(sierra).map_err(|error| damaged(error.to_string()))?;
        let sierra = class.flatten().map_err(|error| damaged(error.to_string()))?;
        let found = ours(sierra.class_hash());
        if found != hash {
            return Err(damaged(format!("its hash is {found}, not {hash}")));
        }
        Ok(Self { what: name, hash, compiled, sierra: Arc::new(sierra) })
    }
}

/// Makes a class known to the chain.
pub(super) async fn declare(handle: &Handle, class: &Class) -> Result<Step, Error> {
    let step = |transaction| Step {
        what: if class.what == "token" { "token class" } else { "job manager class" },
        at: class.hash,
        transaction,
    };
    match handle.provider().get_class(NOW, theirs(class.hash)).await {
        Ok(_) => return Ok(step(None)),
        Err(ProviderError::StarknetError(StarknetError::ClassHashNotFound)) => {}
        Err(error) => return Err(codes::asking(error)),
    }
    let (owner, nonce) = (handle.owner()?, handle.nonce().await?);
    let declaration = owner
        .declare_v3(Arc::clone(&class.sierra), theirs(class.compiled))
        .nonce(nonce.into())
        .gas_price_estimate_multiplier(2.0)
        .tip(handle.options().tip);
    let sent = match declaration.send().await {
        Ok(sent) => sent,
        Err(AccountError::Provider(ProviderError::StarknetError(StarknetError::ClassAlreadyDeclared))) => {
            return Ok(step(None));
        }
        Err(AccountError::Provider(error)) => return Err(refusal(error)),
        Err(other) => return Err(Error::Refused(other.to_string())),
    };
    let hash = ours(sent.transaction_hash);
    wait(handle, hash).await?;
    Ok(step(Some(hash)))
}

/// Deploys a class, unless it is there, and says in which block.
pub(super) async fn instance(
    handle: &Handle,
    what: &'static str,
    class: &Class,
    salt: Felt,
    arguments: &[Felt],
) -> Result<(Step, Option<u64>), Error> {
    let calldata: Vec<_> = arguments.iter().copied().map(theirs).collect();
    let at = ours(get_udc_deployed_address(theirs(salt), theirs(class.hash), &UdcUniqueness::NotUnique, &calldata));
    match handle.provider().get_class_hash_at(NOW, theirs(at)).await {
        Ok(_) => return Ok((Step { what, at, transaction: None }, None)),
        Err(ProviderError::StarknetError(StarknetError::ContractNotFound)) => {}
        Err(error) => return Err(codes::asking(error)),
    }
    let length = Felt::from(u64::try_from(arguments.len()).unwrap_or(u64::MAX));
    let head = [class.hash, salt, Felt::ZERO, length];
    let deployer = DEPLOYER.parse().unwrap_or_default();
    let calldata = head.into_iter().chain(arguments.iter().copied()).collect();
    let call = Call { to: deployer, selector: selectors::DEPLOY_CONTRACT.felt(), calldata };
    let hash = invoke(handle, vec![call]).await?;
    let block = block_of(handle, hash).await?;
    Ok((Step { what, at, transaction: Some(hash) }, block))
}

/// Lets the contract take at least so much from the account.
async fn allow(handle: &Handle, token: Felt, contract: Felt, amount: U256) -> Result<Step, Error> {
    let what = "allowance";
    let allowed = handle.allowance(token, handle.options().account, contract).await?;
    if allowed >= amount {
        return Ok(Step { what, at: token, transaction: None });
    }
    let hash = invoke(handle, vec![calls::approve(token, contract, amount)]).await?;
    Ok(Step { what, at: token, transaction: Some(hash) })
}

/// Deploys the account, unless it is there.
async fn deploy_account(handle: &Handle, from: Option<(Felt, Felt)>) -> Result<Option<Step>, Error> {
    let missing = match handle.nonce().await {
        Ok(_) => return Ok(None),
        Err(Error::Unfit(missing)) => missing,
        Err(error) => return Err(error),
    };
    let (class, salt) = from.ok_or(Error::Unfit(missing))?;
    let account = handle.options().account;
    let key =
        handle.0.client.key.clone().ok_or_else(|| Error::Key("this node has no key of the account".to_owned()))?;
    let made = keys::account_address(key.public(), class, salt);
    if made != account {
        let text = format!("class {class} with salt {salt} and this key makes account {made}, not {account}");
        return Err(Error::Unfit(text));
    }
    let chain = theirs(handle.chain_id().unwrap_or_default());
    let factory = OpenZeppelinAccountFactory::new(theirs(class), chain, key, handle.provider().clone()).await;
    let mut factory = factory.map_err(|never| match never {})?;
    factory.set_block_id(NOW);
    let deployment = factory.deploy_v3(theirs(salt)).nonce(0_u64.into()).gas_price_estimate_multiplier(2.0);
    let sent = deployment.tip(handle.options().tip).send().await.map_err(|error| match error {
        AccountFactoryError::Provider(error) => refusal(error),
        other => Error::Refused(other.to_string()),
    })?;
    let hash = ours(sent.transaction_hash);
    wait(handle, hash).await?;
    Ok(Some(Step { what: "account", at: account, transaction: Some(hash) }))
}

/// Sends calls with the next nonce, and waits until they are done.
pub(super) async fn invoke(handle: &Handle, calls: Vec<Call>) -> Result<Felt, Error> {
    let nonce = handle.nonce().await?;
    let estimate = handle.estimate(nonce, &calls, &[]).await.map_err(|error| match error {
        EstimateError::Failed(error) => error,
        told => Error::Refused(told.to_string()),
    })?;
    if let Some(limit) = handle.options().max_fee.filter(|limit| fees::most(&estimate.bounds) > *limit) {
        let most = fees::most(&estimate.bounds);
        return Err(Error::Refused(format!("it may cost {most}, and blockchain.max_fee is {limit}")));
    }
    let transaction = handle.transaction(nonce, 0, calls, vec![], estimate.bounds)?;
    match handle.send(&transaction).await {
        // Not known: it is looked for.
        Ok(()) | Err(SendError::Unknown(_)) => {}
        Err(SendError::NotSent(error)) => return Err(error),
        Err(told @ SendError::Refused(_)) => return Err(Error::Refused(told.to_string())),
    }
    wait(handle, transaction.hash).await?;
    Ok(transaction.hash)
}

/// Waits until a transaction is done.
async fn wait(handle: &Handle, hash: Felt) -> Result<(), Error> {
    let give_up = clock::instant() + PATIENCE;
    while clock::instant() < give_up {
        let done = match handle.provider().get_transaction_status(theirs(hash)).await {
            Ok(TransactionStatus::PreConfirmed(done) | TransactionStatus::AcceptedOnL2(done)) => Some(done),
            Ok(TransactionStatus::AcceptedOnL1(done)) => Some(done),
            Ok(TransactionStatus::Received | TransactionStatus::Candidate) => None,
            Err(ProviderError::StarknetError(StarknetError::TransactionHashNotFound)) => None,
            Err(error) => match codes::asking(error) {
                error if error.is_retryable() => None,
                error => return Err(error),
            },
        };
        match done {
            Some(ExecutionResult::Succeeded) => return Ok(()),
            Some(ExecutionResult::Reverted { reason }) => {
                return Err(Error::Refused(format!("transaction {hash} reverted: {}", codes::word(&reason))));
            }
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    Err(Error::Down(format!("transaction {hash} was not done within {} s", PATIENCE.as_secs())))
}

async fn block_of(handle: &Handle, hash: Felt) -> Result<Option<u64>, Error> {
    let found = handle.provider().get_transaction_receipt(theirs(hash)).await.map_err(codes::asking)?;
    let TransactionReceipt::Invoke(_) = found.receipt else { return Ok(None) };
    Ok(Some(match found.block {
        ReceiptBlock::Block { block_number, .. } | ReceiptBlock::PreConfirmed { block_number } => block_number,
    }))
}

fn refusal(error: ProviderError) -> Error {
    match codes::sending(error) {
        SendError::Refused(refused) => Error::Refused(refused.to_string()),
        SendError::Unknown(text) => Error::Down(text),
        SendError::NotSent(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_artifacts_have_the_hashes_that_are_told_of_them() {
        for (name, sierra) in [("job manager", JOB_MANAGER), ("token", TOKEN)] {
            assert!(Class::of(name, sierra).is_ok(), "{name}");
        }
        assert!(matches!(Class::of("token", JOB_MANAGER), Err(Error::Unfit(_))));
        assert!(matches!(Class::of("nothing", TOKEN), Err(Error::Unfit(_))));
    }
}
