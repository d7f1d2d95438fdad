//! `blockchain …`: the chain as the nodes see it, by REST; and the chain itself, spoken to from here: the contract is
//! deployed, accounts are made.

#[cfg(feature = "chain")]
mod account;
mod args;
#[cfg(feature = "chain")]
mod deploy;
#[cfg(feature = "chain")]
mod session;
mod show;

use super::Remote;
use super::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(flatten)]
    Show(show::Command),
    /// Put the contract on a chain, as far as it is not there yet, and print what to configure
    Deploy(Box<args::Deploy>),
    /// The account that nodes send transactions with, and its key
    #[command(subcommand)]
    Account(Box<args::Account>),
}

pub async fn run(command: Command, remote: &Remote) -> Result<(), Failure> {
    match command {
        Command::Show(command) => show::run(command, remote).await,
        #[cfg(feature = "chain")]
        Command::Deploy(args) => deploy::run(*args, remote).await,
        #[cfg(feature = "chain")]
        Command::Account(command) => account::run(*command, remote).await,
        #[cfg(not(feature = "chain"))]
        Command::Deploy(_) | Command::Account(_) => Err(absent()),
    }
}

#[cfg(not(feature = "chain"))]
fn absent() -> Failure {
    Failure::usage("this build knows no chain").hint("build with the feature chain, which is on by default")
}
