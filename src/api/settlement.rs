//! How a job is settled on chain, as its clients see it: in the job, in its receipt, and in full.
//!
//! All of it is replicated, so every node says the same at the same index. A
//! stage counts as reached when its transaction is as certain as the job asks.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::chain::{Block, Confirmation, Link, Settlement, Stage, Terms};
use crate::domain::{Job, State};
use crate::submission::settlement::{confirmation_name, policy_name};

#[derive(Serialize, ToSchema)]
#[schema(as = Settlement)]
pub struct SettlementBody {
    /// none: the job is not settled on chain, and nothing else is said here.
    #[schema(pattern = "^(none|settle_later|register_before_distribution)$")]
    policy: &'static str,
    /// What a transaction must reach before its stage counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(preconfirmed|accepted_l2|accepted_l1)$")]
    confirmation: Option<&'static str>,
    /// How far it is: waiting, registered, assigned, settled (result and payment), refunded; or parked: it can not go
    /// on until somebody says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(waiting|registered|assigned|settled|refunded|parked)$")]
    state: Option<&'static str>,
    /// The job's id in the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    chain_job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    registered: Option<LinkBody>,
    /// In the order in which they happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    assigned: Vec<LinkBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    settled: Option<LinkBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refunded: Option<LinkBody>,
    /// Ids of its entries in /blockchain/dead-letter-queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parked: Vec<String>,
    /// Paid for it so far, as the contract's events say; in the smallest unit of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    paid: Option<String>,
}

/// The transaction that carries a stage.
#[derive(Serialize, ToSchema)]
#[schema(as = SettlementLink)]
pub struct LinkBody {
    pub transaction_hash: String,
    pub nonce: u64,
    /// Number of its block; null before that is closed.
    pub block: Option<u64>,
    pub block_hash: Option<String>,
    /// How certain it is that the transaction stays; null: it is not known to have landed.
    #[schema(pattern = "^(preconfirmed|accepted_l2|accepted_l1)$")]
    pub confirmation: Option<&'static str>,
    /// Of the log entry that prepared it.
    pub log_index: u64,
}

impl LinkBody {
    pub fn of(link: &Link) -> Self {
        let Block { number, hash } = link.block.unwrap_or(Block { number: 0, hash: Default::default() });
        Self {
            transaction_hash: link.hash.to_string(),
            nonce: link.nonce,
            block: link.block.map(|_| number),
            block_hash: link.block.map(|_| hash.to_string()),
            confirmation: link.confirmation.map(confirmation_name),
            log_index: link.index,
        }
    }
}

impl SettlementBody {
    pub fn of(state: &State, job: &Job) -> Self {
        let Some(terms) = job.spec.settlement else { return Self::empty(None) };
        let mut body = Self::empty(Some(terms));
        let nothing = Settlement::default();
        let settlement = state.chain().settlement(job.id).map_or(&nothing, |settlement| settlement);
        let links = |stage| settlement.links.iter().filter(move |link| link.stage == stage).map(LinkBody::of);
        body.state = Some(stage_of(settlement, terms));
        body.chain_job = settlement.chain_job.map(|id| id.to_string());
        body.registered = links(Stage::Register).next_back();
        body.assigned = links(Stage::Assign).collect();
        body.settled = links(Stage::Settle).next_back();
        body.refunded = links(Stage::Refund).next_back();
        body.parked = settlement.parked.iter().map(u64::to_string).collect();
        body.paid = Some(settlement.paid().to_string());
        body
    }

    fn empty(terms: Option<Terms>) -> Self {
        Self {
            policy: policy_name(terms),
            confirmation: terms.map(|terms| confirmation_name(terms.confirmation)),
            state: None,
            chain_job: None,
            registered: None,
            assigned: vec![],
            settled: None,
            refunded: None,
            parked: vec![],
            paid: None,
        }
    }
}

/// How far a job is.
pub fn stage_of(settlement: &Settlement, terms: Terms) -> &'static str {
    if !settlement.parked.is_empty() {
        return "parked";
    }
    let reached = |stage: Stage| {
        let enough = |reached: Confirmation| reached >= terms.confirmation;
        settlement.links.iter().any(|link| link.stage == stage && link.confirmation.is_some_and(enough))
    };
    let stages = [(Stage::Refund, "refunded"), (Stage::Settle, "settled"), (Stage::Assign, "assigned")];
    if let Some((_, name)) = stages.into_iter().find(|(stage, _)| reached(*stage)) {
        return name;
    }
    // A job that came from the contract has an id there and no transaction of ours that registered it.
    let theirs = !settlement.links.iter().any(|link| link.stage == Stage::Register) && settlement.chain_job.is_some();
    if theirs || reached(Stage::Register) { "registered" } else { "waiting" }
}

/// The same in a receipt.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptSettlement)]
pub struct ReceiptSettlement {
    policy: &'static str,
    confirmation: &'static str,
    state: &'static str,
    /// Which chain and contract; null before a leader of this cluster spoke with one.
    chain_id: Option<String>,
    contract_address: Option<String>,
    /// The job's id there.
    chain_job: Option<String>,
    /// In the order of the log.
    transactions: Vec<StageBody>,
    /// Paid so far, as the contract's events say; in the smallest unit of the token.
    paid: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SettlementStage)]
pub struct StageBody {
    #[schema(pattern = "^(register|assign|settle|refund)$")]
    pub stage: &'static str,
    #[serde(flatten)]
    pub link: LinkBody,
}

impl StageBody {
    pub fn of(link: &Link) -> Self {
        Self { stage: link.stage.as_str(), link: LinkBody::of(link) }
    }
}

impl ReceiptSettlement {
    /// `None`: the job is not settled.
    pub fn of(state: &State, job: &Job) -> Option<Self> {
        let terms = job.spec.settlement?;
        let nothing = Settlement::default();
        let chain = state.chain();
        let settlement = chain.settlement(job.id).map_or(&nothing, |settlement| settlement);
        Some(Self {
            policy: policy_name(Some(terms)),
            confirmation: confirmation_name(terms.confirmation),
            state: stage_of(settlement, terms),
            chain_id: chain.site().map(|site| super::blockchain::chain_name(site.chain_id)),
            contract_address: chain.site().map(|site| site.contract.to_string()),
            chain_job: settlement.chain_job.map(|id| id.to_string()),
            transactions: settlement.links.iter().map(StageBody::of).collect(),
            paid: settlement.paid().to_string(),
        })
    }
}
