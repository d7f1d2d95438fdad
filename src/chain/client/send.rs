//! Transactions: made, estimated, sent.

use starknet::core::types::{BroadcastedTransaction, FeeEstimate};
use starknet::providers::Provider as _;

use super::account::prepared;
use super::felts::{ours, theirs};
use super::{NOW, codes};
use crate::chain::{Error, Estimate, EstimateError, Handle, Kind, SendError, fees};
use crate::domain::chain::{Bounds, Call, Item, Transaction};

impl Handle {
    /// A transaction with its hash, which is that of what is signed. Asks nobody.
    ///
    /// # Errors
    ///
    /// [`Error::Key`] without a key; [`Error::Down`] before any endpoint said which chain it is of.
    pub fn transaction(
        &self,
        nonce: u64,
        epoch: u64,
        lead: Vec<Call>,
        items: Vec<Item>,
        bounds: Bounds,
    ) -> Result<Transaction, Error> {
        let mut transaction = Transaction { nonce, hash: Default::default(), epoch, lead, items, bounds };
        let owner = self.owner()?;
        let hash = ours(prepared(&owner, nonce, transaction.calls(), &bounds)?.transaction_hash(false));
        transaction.hash = hash;
        Ok(transaction)
    }

    /// Signs and sends it, once. It must be in the log before.
    ///
    /// # Errors
    ///
    /// [`SendError`] says what is known of it then.
    pub async fn send(&self, transaction: &Transaction) -> Result<(), SendError> {
        let owner = self.owner().map_err(SendError::NotSent)?;
        let prepared = prepared(&owner, transaction.nonce, transaction.calls(), &transaction.bounds);
        let prepared = prepared.map_err(SendError::NotSent)?;
        let hash = ours(prepared.transaction_hash(false));
        if hash != transaction.hash {
            // Another key's chain, contract or account: what is logged would never be found.
            let text = format!("its hash is {hash} here, and {} in the log", transaction.hash);
            return Err(SendError::NotSent(Error::Unfit(text)));
        }
        let unsigned = |error: &dyn std::fmt::Display| SendError::NotSent(Error::Key(format!("sign: {error}")));
        let request = prepared.get_invoke_request(false, false).await.map_err(|error| unsigned(&error))?;
        let sent = self.provider().add_invoke_transaction(request).await.map_err(codes::sending)?;
        if ours(sent.transaction_hash) != hash {
            // It is the node that is wrong: it must not decide how the transaction is called.
            return Err(SendError::Unknown(format!("the node calls {hash} {}", ours(sent.transaction_hash))));
        }
        Ok(())
    }

    /// What the calls would cost now, and the bounds to send them with. Costs nothing. Validated with the real
    /// signature. A `nonce` that is not the next is no matter: what counts are the calls.
    ///
    /// # Errors
    ///
    /// [`EstimateError`]
    pub async fn estimate(&self, nonce: u64, lead: &[Call], items: &[Item]) -> Result<Estimate, EstimateError> {
        match self.estimate_at(nonce, lead, items).await {
            Err(EstimateError::Refused(refused)) if refused.kind == Kind::NonceUsed => {
                let next = self.nonce().await?;
                self.estimate_at(next, lead, items).await
            }
            answer => answer,
        }
    }

    async fn estimate_at(&self, nonce: u64, lead: &[Call], items: &[Item]) -> Result<Estimate, EstimateError> {
        let owner = self.owner()?;
        let calls = lead.iter().chain(items.iter().flat_map(|item| &item.calls));
        let prepared = prepared(&owner, nonce, calls, &Bounds::default())?;
        let request = prepared.get_invoke_request(true, false).await;
        let request = request.map_err(|error| Error::Key(format!("sign: {error}")))?;
        let asked = self.provider().estimate_fee_single(BroadcastedTransaction::Invoke(request), vec![], NOW).await;
        Ok(estimate(&asked.map_err(codes::estimating)?, self.options().tip))
    }

    /// The account's next nonce, counting what is preconfirmed.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`]: there is no such account.
    pub async fn nonce(&self) -> Result<u64, Error> {
        let account = self.options().account;
        let asked = self.provider().get_nonce(NOW, theirs(account)).await;
        let missing = || Error::Unfit(format!("account {account} is not deployed"));
        let nonce = asked.map_err(|error| super::read::unless_missing(error, missing))?;
        ours(nonce).to_u64().ok_or_else(|| Error::Refused(format!("a nonce of {}", ours(nonce))))
    }
}

pub(super) fn estimate(said: &FeeEstimate, tip: u64) -> Estimate {
    let used = Bounds {
        l1_gas: said.l1_gas_consumed,
        l1_gas_price: said.l1_gas_price,
        l2_gas: said.l2_gas_consumed,
        l2_gas_price: said.l2_gas_price,
        l1_data_gas: said.l1_data_gas_consumed,
        l1_data_gas_price: said.l1_data_gas_price,
        tip,
    };
    Estimate { fee: said.overall_fee, bounds: fees::bounds(&used, tip) }
}
