//! Questions to the contract and its token.

use starknet::core::types::{Felt as Theirs, FunctionCall, StarknetError};
use starknet::providers::{Provider as _, ProviderError};

use super::NOW;
use super::codes;
use super::felts::{all_ours, ours, theirs};
use crate::chain::records::{Details, Reader, Spec};
use crate::chain::selectors::{self, Name};
use crate::chain::{Error, Generation, Handle, Token};
use crate::domain::WorkerId;
use crate::domain::chain::{Felt, U256};

/// Jobs asked for at once.
const DETAILS_MAX: usize = 100;

/// What our contract calls its generation.
const OURS: &[u8] = b"ciro-2";

/// `Settings` of our contract.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub token: Felt,
    pub fee_recipient: Felt,
    pub fee_bps: u16,
    pub min_payment: U256,
    pub paused: bool,
}

impl Handle {
    /// The highest epoch that the contract has from our account.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn epoch(&self) -> Result<u64, Error> {
        self.ask(selectors::GET_EPOCH, &[self.options().account], |felts| felts.number()).await
    }

    /// What was asked for in a job that others submitted; ours are not kept there, and have none.
    ///
    /// # Errors
    ///
    /// [`Error::Reverted`] for a job nobody knows. [`Error::Down`] and the like.
    pub async fn spec_of(&self, job: U256) -> Result<Spec, Error> {
        self.ask(selectors::GET_JOB_SPEC, &[job.low.into(), job.high.into()], |felts| felts.spec()).await
    }

    /// Jobs as the contract has them, in the order they were asked for; see [`Details::created_at`] for unknown ones.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn details(&self, jobs: &[U256]) -> Result<Vec<Details>, Error> {
        let mut all = vec![];
        for jobs in jobs.chunks(DETAILS_MAX) {
            let ids = jobs.iter().flat_map(|job| [Felt::from(job.low), Felt::from(job.high)]);
            let length = Felt::from(u64::try_from(jobs.len()).unwrap_or(u64::MAX));
            let calldata: Vec<Felt> = [length].into_iter().chain(ids).collect();
            let found = self
                .ask(selectors::GET_JOB_DETAILS_MANY, &calldata, |felts| felts.array(|felt| felt.details()))
                .await?;
            if found.len() != jobs.len() {
                return Err(odd(selectors::GET_JOB_DETAILS_MANY));
            }
            all.extend(found);
        }
        Ok(all)
    }

    /// What was paid out for a job, before the contract's fee.
    ///
    /// # Errors
    ///
    /// [`Error::Reverted`] for a job nobody knows. [`Error::Down`] and the like.
    pub async fn paid(&self, job: U256) -> Result<U256, Error> {
        self.ask(selectors::GET_PAID, &[job.low.into(), job.high.into()], |felts| felts.u256()).await
    }

    /// Where the contract pays a worker; 0: it does not know it.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn payee_of(&self, worker: WorkerId) -> Result<Felt, Error> {
        self.ask(selectors::GET_WORKER_ADDRESS, &[crate::chain::worker_felt(worker)], |felts| felts.felt()).await
    }

    /// What coordinators may still charge a client.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn charge_limit(&self, client: Felt) -> Result<U256, Error> {
        self.ask(selectors::GET_CHARGE_LIMIT, &[client], |felts| felts.u256()).await
    }

    /// What is in escrow for all jobs.
    ///
    /// # Errors
    ///
    /// [`Error::Down`] and the like.
    pub async fn escrow(&self) -> Result<U256, Error> {
        self.ask(selectors::TOTAL_ESCROW, &[], |felts| felts.u256()).await
    }

    /// What somebody has of a token.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`]: there is no such token. [`Error::Down`] and the like.
    pub async fn balance(&self, token: Felt, of: Felt) -> Result<U256, Error> {
        self.ask_at(token, selectors::BALANCE_OF, &[of], |felts| felts.u256()).await
    }

    /// What `spender` may take of somebody's token.
    ///
    /// # Errors
    ///
    /// Like [`Self::balance`].
    pub async fn allowance(&self, token: Felt, of: Felt, spender: Felt) -> Result<U256, Error> {
        self.ask_at(token, selectors::ALLOWANCE, &[of, spender], |felts| felts.u256()).await
    }

    /// What our account has of a token now, and what the contract may take of it.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`]: there is no such token. [`Error::Down`] and the like.
    pub async fn payment_token(&self, token: Felt) -> Result<Token, Error> {
        let (account, contract) = (self.options().account, self.options().contract);
        let balance = self.balance(token, account).await?;
        let allowance = self.allowance(token, account, contract).await?;
        Ok(Token { balance, allowance })
    }

    pub(super) async fn settings(&self) -> Result<Settings, Error> {
        self.ask(selectors::GET_SETTINGS, &[], |felts| {
            Some(Settings {
                token: felts.felt()?,
                fee_recipient: felts.felt()?,
                fee_bps: felts.number()?.try_into().ok()?,
                min_payment: felts.u256()?,
                paused: felts.flag()?,
            })
        })
        .await
    }

    pub(super) async fn is_coordinator(&self) -> Result<bool, Error> {
        self.ask(selectors::IS_COORDINATOR, &[self.options().account], |felts| felts.flag()).await
    }

    /// Finds out what the contract can do, by what it says to questions.
    ///
    /// Ours tells its name. The class people know does not, but has the function that tells a job's state, which
    /// reverts for every job there is. What has neither is no Job Manager.
    pub(super) async fn find_generation(&self) -> Result<Generation, Error> {
        match self.call(self.options().contract, selectors::GET_GENERATION, &[]).await {
            Ok(felts) if felts.first().is_some_and(|name| name.text() == OURS) => return Ok(Generation::Full),
            Ok(_) | Err(Refusal::NoFunction | Refusal::Reverted(_)) => {}
            Err(other) => return Err(other.told(self.options().contract)),
        }
        match self.call(self.options().contract, selectors::GET_JOB_STATE, &[Felt::from(1u64), Felt::ZERO]).await {
            Ok(_) | Err(Refusal::Reverted(_)) => Ok(Generation::SubmissionOnly),
            Err(other) => Err(other.told(self.options().contract)),
        }
    }

    /// Whether the account takes a signature of our key. `None` without a key.
    pub(super) async fn key_fits(&self) -> Result<Option<bool>, Error> {
        let Some(key) = &self.0.client.key else { return Ok(None) };
        // Any hash will do, except one that could be a transaction's or a message's: this is nobody's digest.
        let hash = Theirs::from(0x6369_726f_u64);
        let signature = key.sign(hash).map_err(|error| Error::Key(format!("sign: {error}")))?;
        let calldata = [ours(hash), Felt::from(2u64), ours(signature.r), ours(signature.s)];
        match self.call(self.options().account, selectors::IS_VALID_SIGNATURE, &calldata).await {
            Ok(felts) => {
                // `VALID`, or true as older accounts say it.
                Ok(Some(felts.first().is_some_and(|said| said.text() == b"VALID" || *said == Felt::from(1u64))))
            }
            Err(Refusal::Reverted(_)) => Ok(Some(false)),
            Err(other) => Err(other.told(self.options().account)),
        }
    }

    async fn ask<T>(
        &self,
        name: Name,
        calldata: &[Felt],
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        self.ask_at(self.options().contract, name, calldata, read).await
    }

    async fn ask_at<T>(
        &self,
        at: Felt,
        name: Name,
        calldata: &[Felt],
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, Error> {
        let felts = self.call(at, name, calldata).await.map_err(|refusal| refusal.told(at))?;
        let mut reader = Reader(&felts);
        let value = read(&mut reader).ok_or_else(|| odd(name))?;
        reader.end(value).ok_or_else(|| odd(name))
    }

    async fn call(&self, at: Felt, name: Name, calldata: &[Felt]) -> Result<Vec<Felt>, Refusal> {
        let call = FunctionCall {
            contract_address: theirs(at),
            entry_point_selector: theirs(name.felt()),
            calldata: calldata.iter().copied().map(theirs).collect(),
        };
        let answer = self.provider().call(call, NOW).await.map_err(Refusal::of)?;
        Ok(all_ours(&answer))
    }
}

/// Why a question to a contract has no answer.
#[derive(Debug)]
enum Refusal {
    NoContract,
    NoFunction,
    Reverted(String),
    Failed(Error),
}

impl Refusal {
    fn of(error: ProviderError) -> Self {
        match error {
            ProviderError::StarknetError(StarknetError::ContractNotFound) => Self::NoContract,
            ProviderError::StarknetError(StarknetError::EntrypointNotFound) => Self::NoFunction,
            error => match codes::asking(error) {
                Error::Reverted { word } if word == "entrypoint_not_found" => Self::NoFunction,
                Error::Reverted { word } => Self::Reverted(word),
                other => Self::Failed(other),
            },
        }
    }

    fn told(self, at: Felt) -> Error {
        match self {
            Self::NoContract => Error::Unfit(format!("there is no contract at {at}")),
            Self::NoFunction => Error::Unfit(format!("the contract at {at} has no such function: is it another one?")),
            Self::Reverted(word) => Error::Reverted { word },
            Self::Failed(error) => error,
        }
    }
}

fn odd(name: Name) -> Error {
    Error::Unfit(format!("the contract answers {} otherwise than expected", name.felt()))
}

/// The error, or `missing` if it says that there is no such contract.
pub(super) fn unless_missing(error: ProviderError, missing: impl FnOnce() -> Error) -> Error {
    match error {
        ProviderError::StarknetError(StarknetError::ContractNotFound) => missing(),
        error => codes::asking(error),
    }
}
