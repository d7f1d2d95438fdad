//! The account and its key.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use starknet::accounts::{Account, ExecutionEncoding, PreparedExecutionV3, SingleOwnerAccount};
use starknet::core::crypto::{EcdsaSignError, Signature};
use starknet::core::types::Felt as Theirs;
use starknet::signers::{Signer, SignerInteractivityContext, SigningKey, VerifyingKey};

use super::felts::{call, ours, theirs};
use super::{Client, Provider};
use crate::chain::{Error, Handle};
use crate::domain::chain::{Bounds, Call, Felt};

/// Points on the curve, big-endian; a key is less.
const ORDER: [u8; 32] = {
    let (high, low) = (0x0800_0000_0000_0010_ffff_ffff_ffff_ffff_u128, 0xb781_126d_cae7_b232_1e66_a241_adc6_4d2f_u128);
    let (high, low) = (high.to_be_bytes(), low.to_be_bytes());
    let mut order = [0; 32];
    let mut at = 0;
    while at < 16 {
        order[at] = high[at];
        order[at + 16] = low[at];
        at += 1;
    }
    order
};

/// A private key. Has no `Debug`, and leaves nothing of itself behind; the crate's own copies live for one signature.
pub struct Key {
    secret: [u8; 32],
    public: Felt,
}

impl Key {
    /// # Errors
    ///
    /// [`Error::Key`]: it is no key of the curve.
    pub fn new(secret: Felt) -> Result<Self, Error> {
        let unfit = || Error::Key("the private key is no key of Starknet's curve".to_owned());
        // The crate panics on some of the others.
        if secret == Felt::ZERO || secret.to_bytes() >= ORDER {
            return Err(unfit());
        }
        let signing = SigningKey::from_secret_scalar(theirs(secret));
        Ok(Self { secret: secret.to_bytes(), public: ours(signing.verifying_key().scalar()) })
    }

    /// The public key, which its account knows.
    pub fn public(&self) -> Felt {
        self.public
    }

    /// Deterministic: the same hash has the same signature.
    pub(super) fn sign(&self, hash: Theirs) -> Result<Signature, EcdsaSignError> {
        self.signing().sign(&hash)
    }

    pub(super) fn signing(&self) -> SigningKey {
        SigningKey::from_secret_scalar(Theirs::from_bytes_be(&self.secret))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret.fill(0);
        // Keeps the compiler from taking the line above for useless.
        std::hint::black_box(&self.secret);
    }
}

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// As the crate's attribute would write it.
impl Signer for Key {
    type GetPublicKeyError = Infallible;
    type SignError = EcdsaSignError;

    fn get_public_key<'this, 'later>(&'this self) -> Later<'later, Result<VerifyingKey, Infallible>>
    where
        'this: 'later,
        Self: 'later,
    {
        Box::pin(async { Ok(VerifyingKey::from_scalar(theirs(self.public))) })
    }

    fn sign_hash<'this, 'hash, 'later>(
        &'this self,
        hash: &'hash Theirs,
    ) -> Later<'later, Result<Signature, EcdsaSignError>>
    where
        'this: 'later,
        'hash: 'later,
        Self: 'later,
    {
        Box::pin(async { self.sign(*hash) })
    }

    fn is_interactive(&self, _: SignerInteractivityContext<'_>) -> bool {
        false
    }
}

/// What signs and encodes.
pub(super) type Owner = SingleOwnerAccount<Provider, Arc<Key>>;

impl Handle {
    /// # Errors
    ///
    /// [`Error::Key`] without a key; [`Error::Down`] before any endpoint said which chain it is of.
    pub(super) fn owner(&self) -> Result<Owner, Error> {
        let Client { provider, key, .. } = &self.0.client;
        let key = key.clone().ok_or_else(|| Error::Key("this node has no key of the account".to_owned()))?;
        let unknown = || Error::Down("no endpoint has said yet which chain it is of".to_owned());
        let chain = self.chain_id().ok_or_else(unknown)?;
        let account = theirs(self.options().account);
        Ok(Owner::new(provider.clone(), key, account, theirs(chain), ExecutionEncoding::New))
    }
}

/// Calls as they are signed.
pub(super) fn prepared<'a>(
    owner: &'a Owner,
    nonce: u64,
    calls: impl Iterator<Item = &'a Call>,
    bounds: &Bounds,
) -> Result<PreparedExecutionV3<'a, Owner>, Error> {
    owner
        .execute_v3(calls.map(call).collect())
        .nonce(nonce.into())
        .l1_gas(bounds.l1_gas)
        .l1_gas_price(bounds.l1_gas_price)
        .l2_gas(bounds.l2_gas)
        .l2_gas_price(bounds.l2_gas_price)
        .l1_data_gas(bounds.l1_data_gas)
        .l1_data_gas_price(bounds.l1_data_gas_price)
        .tip(bounds.tip)
        .prepared()
        .map_err(|error| Error::Refused(error.to_string()))
}
