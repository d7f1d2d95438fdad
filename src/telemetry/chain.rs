//! The chain's gauges and counters, as figures.

use super::figures::{Figure, Labels, Unit, Value};
use super::histogram::as_f64;
use super::metrics::Chain;

pub(super) fn figures(chain: &Chain) -> Vec<Figure> {
    let gauge = |name, help, value| Figure::one(name, Unit::None, help, Value::Gauge(value));
    let counter = |name, help, value| Figure::one(name, Unit::None, help, Value::Counter(value));
    let mut figures = vec![
        by_label("ciro_chain_transactions", "Transactions of the cluster by outcome", "outcome", &chain.outcomes),
        by_label("ciro_chain_reverts", "Reverted transactions by the contract's word", "reason", &chain.reverts),
        counter("ciro_chain_calls", "Calls of transactions that succeeded", as_f64(chain.calls)),
        counter("ciro_chain_fee_fri", "Fees paid, in the fee token's smallest unit", wide(chain.fees)),
        counter("ciro_chain_jobs_arrived", "Jobs taken from the contract's events", as_f64(chain.arrived)),
        counter("ciro_chain_jobs_refused", "Jobs on chain that can not be run here", as_f64(chain.refused)),
        gauge("ciro_chain_waiting", "Transactions that are not known to have landed", as_f64(chain.waiting)),
        gauge("ciro_chain_again", "Stages of jobs that are planned again", as_f64(chain.again)),
        gauge("ciro_chain_parked", "Stages of jobs that can not be settled", as_f64(chain.parked)),
        gauge("ciro_chain_unsettled", "Events of the journal that were not looked at", as_f64(chain.unsettled)),
        gauge("ciro_chain_epoch", "The leader's epoch on chain", as_f64(chain.epoch)),
        alarms(chain),
    ];
    let connected = chain.connected.map(|connected| as_f64(u64::from(connected)));
    let known = [
        ("ciro_chain_connected", "1 while this node reaches the chain", connected),
        ("ciro_chain_block", "The newest block that this node saw", chain.block.map(as_f64)),
        ("ciro_chain_balance_fri", "The account's balance, in the fee token's smallest unit", chain.balance),
        ("ciro_chain_journal_cursor", "Newest entry of the journal that is planned", chain.cursor.map(as_f64)),
    ];
    figures.extend(known.into_iter().filter_map(|(name, help, value)| Some(gauge(name, help, value?))));
    figures.retain(|figure| !figure.samples.is_empty());
    figures
}

/// Amounts are told to people and to alarms: 53 bits are enough.
#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn wide(amount: u128) -> f64 {
    amount as f64
}

fn by_label<T: ToString>(name: &'static str, help: &'static str, label: &'static str, counts: &[(T, u64)]) -> Figure {
    let sample = |(value, count): &(T, u64)| -> (Labels, Value) {
        (vec![(label, value.to_string())], Value::Counter(as_f64(*count)))
    };
    let named = counts.iter().filter(|(value, _)| !value.to_string().is_empty());
    Figure::new(name, Unit::None, help, named.map(sample).collect())
}

fn alarms(chain: &Chain) -> Figure {
    let sample = |(code, raised): (&&'static str, &bool)| {
        (vec![("alarm", (*code).to_owned())], Value::Gauge(as_f64(u64::from(*raised))))
    };
    let samples = chain.alarms.iter().map(sample).collect();
    Figure::new("ciro_chain_alarm", Unit::None, "1 while the alarm is raised; see docs/chain.md", samples)
}
