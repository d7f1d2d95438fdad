//! What became of a transaction, and the contract's events.

use starknet::core::types::{
    BlockId, BlockTag, EmittedEvent, EventFilter, ExecutionResult, Felt as Theirs, InvokeTransactionReceipt,
    ReceiptBlock, StarknetError, TransactionFinalityStatus, TransactionReceipt, TransactionReceiptWithBlockInfo,
};
use starknet::providers::{Provider as _, ProviderError};

use super::codes;
use super::felts::{all_ours, ours, theirs};
use crate::chain::events::{self, Event, What};
use crate::chain::{Error, Handle};
use crate::domain::JobId;
use crate::domain::chain::{Block, Confirmation, Felt, Landed, Stage, Transaction, U256};

/// Events in one page. Never changed between pages: nodes count pages, not events.
const PAGE: u64 = 256;

/// Events that are read at once.
const EVENTS_MAX: usize = 20_000;

/// Pages that are turned for them: some nodes answer with empty ones.
const PAGES_MAX: usize = 1_000;

impl Handle {
    /// What the chain says of a transaction now; `None`: it does not know it, or not what it comes to.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like: then nothing is known of it.
    pub async fn status(&self, transaction: &Transaction) -> Result<Option<Landed>, Error> {
        let Some((block, receipt)) = self.receipt(transaction.hash).await? else { return Ok(None) };
        let mut landed = landed(transaction.hash, block, &receipt)?;
        if landed.reverted.is_none() {
            landed.ids = self.ids(transaction, &receipt);
        }
        Ok(Some(landed))
    }

    pub(super) async fn receipt(&self, hash: Felt) -> Result<Option<(ReceiptBlock, InvokeTransactionReceipt)>, Error> {
        let asked = self.provider().get_transaction_receipt(theirs(hash)).await;
        let TransactionReceiptWithBlockInfo { receipt, block } = match asked {
            Ok(found) => found,
            Err(ProviderError::StarknetError(StarknetError::TransactionHashNotFound)) => return Ok(None),
            Err(error) => return Err(codes::asking(error)),
        };
        match receipt {
            TransactionReceipt::Invoke(receipt) if receipt.transaction_hash == theirs(hash) => {
                Ok(Some((block, receipt)))
            }
            _ => Err(Error::Down("the node answers with another transaction".to_owned())),
        }
    }

    /// Ids that the contract chose, where it does: those of the events, in the order of the calls.
    fn ids(&self, transaction: &Transaction, receipt: &InvokeTransactionReceipt) -> Vec<(JobId, U256)> {
        let contract = theirs(self.options().contract);
        let submitted =
            receipt.events.iter().filter(|event| event.from_address == contract).filter_map(
                |event| match events::decode(&all_ours(&event.keys), &all_ours(&event.data)) {
                    Some(What::Submitted { job, .. }) => Some(job),
                    _ => None,
                },
            );
        let registered: Vec<JobId> = {
            let items = transaction.items.iter().filter(|item| item.stage == Stage::Register);
            items.map(|item| item.job).collect()
        };
        let ids: Vec<U256> = submitted.collect();
        // Ours says nothing of a job it knows already: then the count tells nothing, and its ids are our own.
        let own = ids.iter().any(|id| registered.iter().any(|job| U256::of(*job) == *id));
        if own || ids.len() != registered.len() { vec![] } else { registered.into_iter().zip(ids).collect() }
    }

    /// The newest closed block.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn head(&self) -> Result<Block, Error> {
        let head = self.provider().block_hash_and_number().await.map_err(codes::asking)?;
        Ok(Block { number: head.block_number, hash: ours(head.block_hash) })
    }

    /// The hash of a closed block; `None`: there is none of this number.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn block_hash(&self, number: u64) -> Result<Option<Felt>, Error> {
        use starknet::core::types::MaybePreConfirmedBlockWithTxHashes as Found;
        match self.provider().get_block_with_tx_hashes(BlockId::Number(number)).await {
            Ok(Found::Block(block)) => Ok(Some(ours(block.block_hash))),
            Ok(Found::PreConfirmedBlock(_)) => Ok(None),
            Err(ProviderError::StarknetError(StarknetError::BlockNotFound)) => Ok(None),
            Err(error) => Err(codes::asking(error)),
        }
    }

    /// The contract's events of closed blocks, `from` and `to` included, in the order of the chain.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`]: ask for fewer blocks. [`Error::Down`] and the like.
    pub async fn events(&self, from: u64, to: u64) -> Result<Vec<Event>, Error> {
        self.events_between(BlockId::Number(from), BlockId::Number(to), vec![], |block| {
            block.is_some_and(|block| (from..=to).contains(&block.number))
        })
        .await
    }

    /// All events of one job, also those of the block that is not closed.
    ///
    /// # Errors
    ///
    /// Like [`Self::events`].
    pub async fn events_of(&self, job: U256, from: u64) -> Result<Vec<Event>, Error> {
        let keys = vec![vec![theirs(job.low.into())], vec![theirs(job.high.into())]];
        self.events_between(BlockId::Number(from), BlockId::Tag(BlockTag::PreConfirmed), keys, |_| true).await
    }

    async fn events_between(
        &self,
        from: BlockId,
        to: BlockId,
        keys: Vec<Vec<Theirs>>,
        wanted: impl Fn(Option<Block>) -> bool,
    ) -> Result<Vec<Event>, Error> {
        let contract = theirs(self.options().contract);
        let selectors = events::READ.iter().map(|name| theirs(name.felt())).collect();
        let keys = Some([selectors].into_iter().chain(keys).collect());
        let filter = EventFilter { from_block: Some(from), to_block: Some(to), address: Some(contract), keys };
        let (mut found, mut token) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let page = self.provider().get_events(filter.clone(), token, PAGE).await.map_err(codes::asking)?;
            let ours = page.events.iter().filter(|event| event.from_address == contract);
            found.extend(ours.filter_map(read_event).filter(|event| wanted(event.block)));
            if found.len() > EVENTS_MAX {
                return Err(Error::TooMany { what: "events", limit: EVENTS_MAX });
            }
            token = page.continuation_token;
            if token.is_none() {
                return Ok(found);
            }
        }
        Err(Error::TooMany { what: "pages of events", limit: PAGES_MAX })
    }
}

fn read_event(event: &EmittedEvent) -> Option<Event> {
    let block = event.block_number.zip(event.block_hash);
    Some(Event {
        block: block.map(|(number, hash)| Block { number, hash: ours(hash) }),
        transaction: ours(event.transaction_hash),
        what: events::decode(&all_ours(&event.keys), &all_ours(&event.data))?,
    })
}

fn landed(hash: Felt, block: ReceiptBlock, receipt: &InvokeTransactionReceipt) -> Result<Landed, Error> {
    let fee = ours(receipt.actual_fee.amount);
    let reverted = match &receipt.execution_result {
        ExecutionResult::Succeeded => None,
        ExecutionResult::Reverted { reason } => Some(codes::ending(reason, &codes::word(reason)).into()),
    };
    let block = match block {
        ReceiptBlock::Block { block_hash, block_number } => {
            Some(Block { number: block_number, hash: ours(block_hash) })
        }
        ReceiptBlock::PreConfirmed { .. } => None,
    };
    let confirmation = match receipt.finality_status {
        TransactionFinalityStatus::PreConfirmed => Confirmation::Preconfirmed,
        TransactionFinalityStatus::AcceptedOnL2 => Confirmation::AcceptedL2,
        TransactionFinalityStatus::AcceptedOnL1 => Confirmation::AcceptedL1,
    };
    Ok(Landed {
        hash,
        block,
        confirmation,
        fee: fee.to_u128().ok_or_else(|| Error::Down(format!("the node tells of a fee of {fee}")))?,
        reverted,
        ids: vec![],
    })
}
