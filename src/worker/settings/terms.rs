//! On what terms jobs are taken: rates, refused clients, the operator's command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{PATH, find, range};
use crate::worker::appraiser::Rule;
use crate::worker::config::{self, Layered};
use crate::worker::pricing::Rates;

/// Clients that may be refused.
const REFUSED_MAX: usize = 10_000;

pub(super) fn rates(
    layered: &Layered,
    job: &config::Job,
    refused_clients: &Arc<BTreeSet<String>>,
) -> Result<Rates, config::Error> {
    let price = &layered.file.price;
    range(layered, "price.busy_percent", price.busy_percent.into(), 0..=10_000)?;
    range(layered, "price.assumed_secs", price.assumed_secs.into(), 0..=86_400)?;
    Ok(Rates {
        per_second: job.price_per_second.unwrap_or(price.per_second).0,
        per_gb: job.price_per_gb.unwrap_or(price.per_gb).0,
        least: price.least.0,
        busy_percent: price.busy_percent,
        assumed_ms: price.assumed_secs.saturating_mul(1_000),
        refused_clients: Arc::clone(refused_clients),
    })
}

/// The addresses, as coordinators write them: lower case, without leading zeros.
pub(super) fn refused_clients(layered: &Layered) -> Result<Arc<BTreeSet<String>>, config::Error> {
    let key = "limits.refused_clients";
    let listed = &layered.file.limits.refused_clients;
    if listed.len() > REFUSED_MAX {
        return Err(layered.refuse(key, format!("{} are too many: expected at most {REFUSED_MAX}", listed.len())));
    }
    let parse = |address: &String| {
        let digits = address
            .strip_prefix("0x")
            .filter(|digits| (1..=64).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let wrong = || layered.refuse(key, format!("{address:?} is no address: expected 0x and hex digits"));
        let digits = digits.ok_or_else(wrong)?.trim_start_matches('0').to_lowercase();
        Ok(if digits.is_empty() { "0x0".to_owned() } else { format!("0x{digits}") })
    };
    listed.iter().map(parse).collect::<Result<_, _>>().map(Arc::new)
}

/// The command that is asked before anything is bid.
pub(super) fn appraisal(layered: &Layered) -> Result<Option<Rule>, config::Error> {
    let bidding = &layered.file.bidding;
    range(layered, "bidding.timeout_ms", bidding.timeout_ms, 10..=10_000)?;
    range(layered, "bidding.parallel", bidding.parallel.into(), 1..=64)?;
    let Some((name, arguments)) = bidding.command.split_first() else { return Ok(None) };
    let Some(path) = find(name, PATH) else {
        let detail =
            format!("program {name:?} was not found in {PATH}: expected one that is installed, or its full path");
        return Err(layered.refuse("bidding.command", detail));
    };
    Ok(Some(Rule {
        path,
        arguments: arguments.to_vec(),
        environment: BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]),
        limit: Duration::from_millis(bidding.timeout_ms),
        parallel: bidding.parallel,
    }))
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::*;
    use crate::domain::Price;

    fn layered(text: &str) -> Layered {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("worker.toml");
        std::fs::write(&path, text).unwrap();
        Layered::read(Some(&path), [], vec![]).unwrap()
    }

    #[test]
    fn a_refused_client_is_known_under_every_spelling() {
        let all = layered("[limits]\nrefused_clients = [\"0x0ABC\", \"0xabc\", \"0x00\"]");
        let expected: BTreeSet<String> = ["0xabc", "0x0"].map(str::to_owned).into();
        assert_eq!(*refused_clients(&all).unwrap(), expected);
    }

    #[test]
    fn a_job_type_may_have_rates_of_its_own() {
        let all = layered("[price]\nper_second = \"3\"\nper_gb = 4\nleast = \"2\"\nassumed_secs = 7");
        let none = Arc::default();
        let usual = rates(&all, &config::Job::default(), &none).unwrap();
        assert_eq!((usual.per_second, usual.per_gb, usual.least), (Price(3), Price(4), Price(2)));
        assert_eq!(usual.assumed_ms, 7_000);
        let job = Value::Table("price_per_second = \"9\"".parse().unwrap()).try_into().unwrap();
        let own = rates(&all, &job, &none).unwrap();
        assert_eq!((own.per_second, own.per_gb), (Price(9), Price(4)));
    }

    #[test]
    fn a_command_is_looked_for_when_the_worker_starts() {
        assert_eq!(appraisal(&layered("")).unwrap(), None);
        let rule = appraisal(&layered("[bidding]\ncommand = [\"cat\", \"-\"]")).unwrap().unwrap();
        assert!(rule.path.is_absolute());
        assert_eq!((rule.arguments, rule.limit.as_millis(), rule.parallel), (vec!["-".to_owned()], 100, 2));
    }
}
