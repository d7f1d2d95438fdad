//! The section `[blockchain]`: its values, and which of them do not go together.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::{Config, Environment, Secret, unless_empty};
use crate::chain::Generation;
use crate::domain::Price;
use crate::domain::chain::{Confirmation, Felt, Policy};

/// Endpoints, the first one included.
const RPC_MAX: usize = 8;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blockchain {
    pub enabled: bool,
    #[serde(deserialize_with = "unless_empty")]
    pub rpc_url: Option<Secret>,
    pub rpc_urls: Vec<Secret>,
    #[serde(deserialize_with = "chain_id")]
    pub chain_id: Option<Felt>,
    #[serde(deserialize_with = "optional")]
    pub job_manager_address: Option<Felt>,
    pub generation: Generation,
    #[serde(deserialize_with = "optional")]
    pub account_address: Option<Felt>,
    /// Empty, like the other file: none.
    pub keystore: PathBuf,
    pub keystore_password_file: PathBuf,
    #[serde(deserialize_with = "unless_empty")]
    pub insecure_dev_key: Option<Secret>,
    pub settlement: Settlement,
    pub confirmation: Confirmation,
    #[serde(deserialize_with = "optional")]
    pub default_max_price: Option<Price>,
    #[serde(deserialize_with = "optional")]
    pub max_escrow: Option<u128>,
    pub charge_clients: bool,
    pub batch_calls: usize,
    pub batch_wait_ms: u64,
    #[serde(deserialize_with = "optional")]
    pub max_fee: Option<u128>,
    #[serde(deserialize_with = "optional")]
    pub max_spend_per_hour: Option<u128>,
    pub tip: u64,
    pub replace_after_secs: u64,
    pub watch_blocks: u64,
    #[serde(deserialize_with = "optional")]
    pub follow_from_block: Option<u64>,
    pub request_timeout_ms: u64,
}

/// How jobs are settled that do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    None,
    SettleLater,
    RegisterBeforeDistribution,
}

impl Settlement {
    pub fn policy(self) -> Option<Policy> {
        match self {
            Self::None => None,
            Self::SettleLater => Some(Policy::SettleLater),
            Self::RegisterBeforeDistribution => Some(Policy::RegisterBeforeDistribution),
        }
    }
}

impl Blockchain {
    /// Every endpoint once, the preferred one first.
    pub fn endpoints(&self) -> Vec<&Secret> {
        let mut endpoints: Vec<&Secret> = vec![];
        for url in self.rpc_url.iter().chain(&self.rpc_urls) {
            if !endpoints.contains(&url) {
                endpoints.push(url);
            }
        }
        endpoints
    }

    pub fn has_keystore(&self) -> bool {
        !self.keystore.as_os_str().is_empty()
    }
}

/// Empty text is none.
fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    (!text.is_empty()).then(|| text.parse().map_err(de::Error::custom)).transpose()
}

fn chain_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Felt>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(read_chain_id(&text))
}

/// `SN_SEPOLIA` or `0x534e5f5345504f4c4941`.
pub(super) fn read_chain_id(text: &str) -> Option<Felt> {
    match text {
        "" => None,
        hex if hex.starts_with("0x") => hex.parse().ok(),
        name => Felt::short(name.as_bytes()),
    }
}

/// Combinations that can not work.
pub(super) fn problems(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let chain = &config.blockchain;
    if chain.endpoints().len() > RPC_MAX {
        refuse("blockchain.rpc_urls", format!("with blockchain.rpc_url these are more than {RPC_MAX}"));
    }
    if chain.insecure_dev_key.is_some() && config.environment == Environment::Production {
        let reason = "is for development; in production the key is in an encrypted file, see blockchain.keystore";
        refuse("blockchain.insecure_dev_key", reason.to_owned());
    }
    if chain.insecure_dev_key.is_some() && chain.has_keystore() {
        refuse("blockchain.insecure_dev_key", "and blockchain.keystore are two keys; set one of them".to_owned());
    }
    if let (Some(price), Some(most)) = (chain.default_max_price, chain.max_escrow)
        && price.0 > most
    {
        let reason = format!("is {price}, more than blockchain.max_escrow ({most}): no job could have it");
        refuse("blockchain.default_max_price", reason);
    }
    if chain.enabled {
        needed(config, refuse);
    }
}

/// What an enabled chain can not do without.
fn needed(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let chain = &config.blockchain;
    if !cfg!(feature = "chain") {
        refuse("blockchain.enabled", "this build has no blockchain support; build with --features chain".to_owned());
    }
    let enabled = "and blockchain.enabled is true";
    if chain.endpoints().is_empty() {
        refuse("blockchain.rpc_url", format!("is empty, {enabled}; name a Starknet JSON-RPC endpoint"));
    }
    if chain.job_manager_address.is_none_or(|address| address == Felt::ZERO) {
        let deploy = "`ciro-coordinator blockchain deploy` makes one";
        refuse("blockchain.job_manager_address", format!("is empty, {enabled}; name the contract ({deploy})"));
    }
    if chain.account_address.is_none_or(|address| address == Felt::ZERO) {
        let new = "`ciro-coordinator blockchain account new` makes one";
        refuse("blockchain.account_address", format!("is empty, {enabled}; name the account that pays ({new})"));
    }
    if !chain.has_keystore() && chain.insecure_dev_key.is_none() {
        let hint = "name the account's encrypted key; `ciro-coordinator blockchain account new` makes one";
        refuse("blockchain.keystore", format!("is empty, {enabled}; {hint}"));
    }
    if chain.chain_id.is_none() && !config.environment.is_local() {
        let hint = "name the chain, e.g. SN_MAIN or SN_SEPOLIA, so that no other is taken for it";
        refuse("blockchain.chain_id", format!("is empty, {enabled}; {hint}"));
    }
}

/// What works but is likely not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let chain = &config.blockchain;
    let mut warnings = vec![];
    if !chain.enabled {
        return warnings;
    }
    if chain.insecure_dev_key.is_some() && !config.environment.is_local() {
        warnings.push("blockchain.insecure_dev_key is a key that lies open; use blockchain.keystore".to_owned());
    }
    if chain.max_fee.is_none() && !config.environment.is_local() {
        warnings.push("blockchain.max_fee is empty: a transaction may cost anything".to_owned());
    }
    let plain = |url: &&&Secret| url.expose().starts_with("http://") && url.expose().contains('@');
    if chain.endpoints().iter().any(|url| plain(&url)) {
        warnings.push("blockchain.rpc_url has credentials and no TLS: they travel readable by all".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let flags = pairs.iter().map(|(key, value)| (format!("blockchain.{key}"), (*value).to_owned()));
        let flags = flags.map(|(key, value)| (key.replace("blockchain.environment", "environment"), value)).collect();
        match Config::load(&Sources { flags, ..Sources::default() }) {
            Ok((config, _)) => Ok(config),
            Err(error) => Err(error.to_string()),
        }
    }

    const WHOLE: [(&str, &str); 5] = [
        ("enabled", "true"),
        ("rpc_url", "http://127.0.0.1:5050"),
        ("job_manager_address", "0x1"),
        ("account_address", "0x2"),
        ("keystore", "key.json"),
    ];

    /// A complete section with one key said otherwise.
    fn with(key: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        let others = WHOLE.into_iter().filter(|(known, _)| *known != key);
        others.chain([(key, value)]).collect()
    }

    #[test]
    fn what_an_enabled_chain_needs_is_asked_for_with_where_to_get_it() {
        if !cfg!(feature = "chain") {
            assert!(load(&WHOLE).unwrap_err().contains("build with --features chain"));
            return;
        }
        assert!(load(&WHOLE).is_ok());
        let cases = [
            (with("rpc_url", ""), "blockchain.rpc_url: is empty, and blockchain.enabled is true; name a Starknet"),
            (with("job_manager_address", ""), "blockchain.job_manager_address: is empty"),
            (with("job_manager_address", "0x0"), "`ciro-coordinator blockchain deploy` makes one"),
            (with("account_address", ""), "`ciro-coordinator blockchain account new` makes one"),
            (with("keystore", ""), "blockchain.keystore: is empty"),
            (with("environment", "staging"), "blockchain.chain_id: is empty, and blockchain.enabled is true"),
            (with("insecure_dev_key", "0x5ec2e7"), "are two keys; set one of them"),
            (with("generation", "v2"), "expected auto, full or submission_only"),
            (with("confirmation", "soon"), "expected preconfirmed, accepted_l2 or accepted_l1"),
            (with("settlement", "now"), "expected none, settle_later or register_before_distribution"),
            (with("max_fee", "1e18"), "expected a whole number"),
            (with("batch_calls", "0"), "expected a whole number from 1 to"),
            (with("max_escrow", "-1"), "expected a whole number"),
            (with("charge_clients", "0x1"), "expected true or false"),
            (with("chain_id", "a name that is far longer than 31 bytes"), "expected a name like SN_SEPOLIA"),
        ];
        for (pairs, expected) in cases {
            let problems = load(&pairs).unwrap_err();
            assert!(problems.contains(expected), "{pairs:?} gave {problems:?}");
            assert!(!problems.contains("5ec2e7"), "{problems}");
        }
    }

    #[test]
    fn a_plain_key_is_for_development() {
        let plain = [("insecure_dev_key", "0x5ec2e7"), ("keystore", "")];
        let config = load(&plain).unwrap();
        assert!(!format!("{config:?}").contains("5ec2e7"));
        let refused = load(&[("environment", "production"), plain[0]]).unwrap_err();
        assert!(refused.contains("blockchain.insecure_dev_key: is for development") && !refused.contains("5ec2e7"));
    }

    #[test]
    fn values_are_typed_and_endpoints_are_there_once() {
        let config = load(&[
            ("chain_id", "SN_SEPOLIA"),
            ("rpc_url", "http://a"),
            ("rpc_urls", "http://b,http://a"),
            ("max_fee", "340282366920938463463374607431768211455"),
            ("follow_from_block", "17"),
            ("default_max_price", "5"),
        ]);
        let chain = config.unwrap().blockchain;
        assert_eq!(chain.chain_id.unwrap().to_string(), "0x534e5f5345504f4c4941");
        assert_eq!(chain.endpoints().iter().map(|url| url.expose()).collect::<Vec<_>>(), ["http://a", "http://b"]);
        assert_eq!((chain.max_fee, chain.follow_from_block), (Some(u128::MAX), Some(17)));
        assert_eq!(chain.default_max_price, Some(Price(5)));
        let hex = load(&[("chain_id", "0x534e5f5345504f4c4941")]).unwrap().blockchain;
        assert_eq!(hex.chain_id, chain.chain_id);
        let many = (0..9).map(|n| format!("http://{n}")).collect::<Vec<_>>().join(",");
        assert!(load(&[("rpc_urls", &many)]).unwrap_err().contains("more than 8"));
    }

    #[test]
    fn no_default_is_above_what_may_go_into_escrow() {
        assert!(load(&[("default_max_price", "5"), ("max_escrow", "5")]).is_ok());
        let refused = load(&[("default_max_price", "6"), ("max_escrow", "5")]).unwrap_err();
        assert!(
            refused.contains("blockchain.default_max_price: is 6, more than blockchain.max_escrow (5)"),
            "{refused}"
        );
    }

    #[test]
    fn an_address_may_be_small_whoever_says_it() {
        let small = [("job_manager_address", "0x1f"), ("account_address", "0x0000002"), ("chain_id", "0x1")];
        let variables =
            small.map(|(key, value)| (format!("CIRO__BLOCKCHAIN__{}", key.to_uppercase()), value.to_owned()));
        let said = Sources { variables: variables.to_vec(), ..Sources::default() };
        for chain in [load(&small).unwrap(), Config::load(&said).unwrap().0].map(|config| config.blockchain) {
            assert_eq!(chain.job_manager_address, Some(Felt::from(0x1fu64)));
            assert_eq!((chain.account_address, chain.chain_id), (Some(Felt::from(2u64)), Some(Felt::from(1u64))));
        }
    }

    #[test]
    fn production_registers_first_and_others_settle_later() {
        assert_eq!(
            Config::defaults(Environment::Production).blockchain.settlement.policy(),
            Some(Policy::RegisterBeforeDistribution)
        );
        assert_eq!(Config::defaults(Environment::Test).blockchain.settlement.policy(), Some(Policy::SettleLater));
    }
}
