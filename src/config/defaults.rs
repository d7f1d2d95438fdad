//! Defaults that depend on the environment.

use super::Environment;
use super::schema::Plain;

pub(super) fn data_dir(environment: Environment) -> Plain {
    Plain::Text(match environment {
        Environment::Development => "data/development",
        Environment::Test => "data/test",
        Environment::Staging | Environment::Production => "/var/lib/ciro-coordinator",
    })
}

pub(super) fn network_name(environment: Environment) -> Plain {
    Plain::Text(match environment {
        Environment::Development => "ciro-development",
        Environment::Staging => "ciro-staging",
        Environment::Production => "ciro",
        Environment::Test => "ciro-test",
    })
}

pub(super) fn rpc_url(environment: Environment) -> Plain {
    Plain::Text(match environment {
        Environment::Development | Environment::Staging => "https://starknet-sepolia.public.blastapi.io",
        Environment::Production => "https://starknet-mainnet.public.blastapi.io",
        Environment::Test => "http://127.0.0.1:5050",
    })
}

pub(super) fn log_level(environment: Environment) -> Plain {
    Plain::Text(match environment {
        Environment::Development => "debug",
        Environment::Staging | Environment::Test => "info",
        Environment::Production => "warn",
    })
}
