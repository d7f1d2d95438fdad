//! All of the client crate: nothing outside this folder names it.

mod account;
mod codes;
pub mod deploy;
mod felts;
pub mod keys;
mod landed;
mod probe;
mod read;
mod send;
mod transport;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, RwLock};

use starknet::core::types::{BlockId, BlockTag};
use starknet::providers::jsonrpc::JsonRpcClient;

use super::{Error, Handle, Options, Shared, State, View};
use crate::domain::chain::{Felt, Site};
use crate::tasks::Tasks;
use account::Key;
use transport::Transport;

/// What is read is read from here: what is preconfirmed counts.
const NOW: BlockId = BlockId::Tag(BlockTag::PreConfirmed);

type Provider = JsonRpcClient<Transport>;

/// The connection, and the key.
pub(super) struct Client {
    transport: Transport,
    provider: Provider,
    key: Option<Arc<Key>>,
}

impl Handle {
    /// Opens the keystore, which takes a moment, and starts looking at the chain, whether it is there or not.
    ///
    /// # Errors
    ///
    /// [`Error::Key`]: the key can not be had. [`Error::Refused`]: the settings can not be used.
    pub fn start(options: Options, tasks: &Tasks) -> Result<Self, Error> {
        let handle = Self::for_one_use(options, tasks)?;
        tasks.spawn_until_stopped("chain-probe", probe::run(handle.clone()));
        Ok(handle)
    }

    /// For who asks once and goes: nobody looks at the chain, so there is no [view](Self::view) of it.
    ///
    /// # Errors
    ///
    /// Like [`Self::start`].
    pub fn for_one_use(options: Options, tasks: &Tasks) -> Result<Self, Error> {
        let key = keys::load(&options.signer)?.map(Arc::new);
        let transport = Transport::new(&options, tasks.token().clone())?;
        let client = Client { provider: Provider::new(transport.clone()), transport, key };
        let (view, alarms) = (RwLock::new(View::new(State::Connecting)), Mutex::default());
        Ok(Self(Arc::new(Shared { options, view, alarms, client })))
    }

    /// Of which chain, contract and account the books are; `None` before an endpoint has said which chain it is.
    pub fn site(&self) -> Option<Site> {
        let Options { contract, account, .. } = self.0.options;
        Some(Site { chain_id: self.chain_id()?, contract, account })
    }

    /// What all endpoints are of: as configured, or as the first one said.
    pub fn chain_id(&self) -> Option<Felt> {
        self.0.client.transport.chain_id()
    }

    fn provider(&self) -> &Provider {
        &self.0.client.provider
    }
}
