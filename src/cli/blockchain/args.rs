//! What `blockchain deploy` and `blockchain account` are told.

use std::path::PathBuf;

use crate::cli::start::assignment;
use crate::config::Environment;
use crate::domain::chain::Felt;

/// Which chain, and which account: the keys of the configuration, as a node has them.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reaching the chain")]
pub struct Chain {
    /// Starknet's JSON-RPC; the same as --set blockchain.rpc_url=…
    #[arg(long, value_name = "URL", env = "CIRO_RPC_URL", hide_env_values = true)]
    pub rpc_url: Option<String>,
    /// The account; the same as --set blockchain.account_address=…
    #[arg(long, value_name = "ADDRESS")]
    pub account: Option<String>,
    /// Its encrypted key; the same as --set blockchain.keystore=…
    #[arg(long, value_name = "PATH")]
    pub keystore: Option<String>,
    /// The keystore's password is the first line of this file; without it that of the variable
    /// CIRO_KEYSTORE_PASSWORD, or what is typed
    #[arg(long, value_name = "PATH")]
    pub password_file: Option<String>,
    /// A node's configuration file: its blockchain section has all of this
    #[arg(long, short, value_name = "PATH", env = "CIRO_CONFIG")]
    pub config: Option<PathBuf>,
    /// development, staging, production or test: wins over what the file says
    #[arg(long, short, value_name = "NAME")]
    pub environment: Option<Environment>,
    /// Set a key, e.g. --set blockchain.tip=1000
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// From what an account is made.
#[derive(Clone, Debug, clap::Args)]
pub struct Origin {
    /// Class of the account's contract; without it OpenZeppelin's, which is declared on public networks and devnets
    #[arg(long, value_name = "HASH")]
    pub account_class: Option<Felt>,
    /// Another salt gives the same key another address
    #[arg(long, value_name = "NUMBER", default_value = "0x0")]
    pub account_salt: Felt,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The account becomes the contract's admin and its first coordinator. Every step looks whether it is\n\
    done already: after a failure say the same again."
)]
pub struct Deploy {
    #[command(flatten)]
    pub chain: Chain,
    /// What jobs are paid in, an ERC-20 token; without it a new one for development, of which the account has all
    #[arg(long, value_name = "ADDRESS")]
    pub token: Option<Felt>,
    /// Who gets the contract's fee; without it the account
    #[arg(long, value_name = "ADDRESS")]
    pub fee_recipient: Option<Felt>,
    /// The fee, in hundredths of a percent of what is paid out
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub fee_bps: u16,
    /// The least a job pays, in the token's smallest unit
    #[arg(long, value_name = "AMOUNT", default_value_t = 1)]
    pub min_payment: u128,
    /// What the contract may take from the account, in the token's smallest unit; without it anything
    #[arg(long, value_name = "AMOUNT")]
    pub allowance: Option<u128>,
    /// Another salt gives another contract
    #[arg(long, value_name = "NUMBER", default_value = "0x0")]
    pub salt: Felt,
    #[command(flatten)]
    pub origin: Origin,
}

#[derive(Debug, clap::Subcommand)]
pub enum Account {
    /// Make a new key in a new keystore, and print the address its account will have
    New(Make),
    /// Put a known key into a new keystore: it is read from a file, or typed
    Import(Import),
    /// The account of a keystore, and what the chain knows of it
    Show(Show),
    /// How to get fees to the account, and whether it has any
    FundHint(Show),
}

#[derive(Debug, clap::Args)]
pub struct Make {
    #[command(flatten)]
    pub chain: Chain,
    #[command(flatten)]
    pub origin: Origin,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// The private key, 0x and hex digits, is the first line of this file; without it it is typed
    #[arg(long, value_name = "PATH")]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub make: Make,
}

#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(flatten)]
    pub make: Make,
    /// Ask no node
    #[arg(long)]
    pub offline: bool,
}
