//! Records that the broker never takes, whatever is done: they stand in nobody's way.

use super::delivery::{Bench, as_message, counted};
use super::fixture::{decoded, header};
use crate::kafka::Record;
use crate::wire::proto::kafka::v1 as proto;

/// Why each of these records is not what it should be; `None`: it is.
fn faults(records: &[Record]) -> Vec<Option<String>> {
    let fault = |record: &Record| header(&as_message(record), "ciro.error.code").map(ToOwned::to_owned);
    records.iter().map(fault).collect()
}

async fn refused(times: usize) -> Bench {
    let bench = Bench::new().await;
    bench.cancelled(0..1).await;
    bench.order(&format!("errors produce invalid_record {times}")).await;
    bench.run_until_delivered().await;
    bench.cancelled(1..5).await;
    bench.run_until_delivered().await;
    bench
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_refused_for_good_is_told_of_by_a_stub() {
    let bench = refused(1).await;
    let results = bench.records("results").await;
    let stubs: Vec<_> = results.iter().filter(|record| faults(&[(*record).clone()]) != [None]).collect();
    assert_eq!((results.len(), stubs.len()), (5, 1), "and those behind it are there");
    let stub = as_message(stubs[0]);
    assert_eq!(header(&stub, "ciro.error.code"), Some("record_refused"));
    let told: proto::JobResult = decoded(&stub);
    assert!(told.details_missing && told.seq == 2, "{told:?}");
    assert_eq!(bench.held("jobs.dlq").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stub_that_is_refused_as_well_goes_to_the_dead_letters() {
    let bench = refused(2).await;
    assert_eq!(faults(&bench.records("results").await), [None, None, None, None]);
    let [aside] = bench.records("jobs.dlq").await.try_into().unwrap();
    let aside = as_message(&aside);
    assert_eq!(header(&aside, "dlq.original.topic"), Some("results"));
    assert_eq!(header(&aside, "ciro.error.code"), Some("record_refused"));
    assert_eq!(header(&aside, "ce_id"), Some("test-net-2"), "it is still known by its id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_nothing_takes_is_left_out_with_an_alarm() {
    let bench = Bench::new().await;
    bench.cancelled(0..1).await;
    bench.order("errors produce invalid_record 3").await;
    let alarmed = async || {
        let alarms = bench.kafka.view().alarms;
        alarms.iter().any(|alarm| alarm.contains("1 records were left out, the last of them test-net-2"))
            && bench.cursor() == Some(bench.newest())
    };
    bench.run_until("an alarm", &bench.reign, alarmed).await;
    bench.cancelled(1..5).await;
    bench.run_until_delivered().await;
    assert_eq!((bench.held("results").await, bench.held("jobs.dlq").await), (4, 0));
}

/// The broker refuses what came in one piece, and does not say for whose sake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_were_sent_together_with_a_refused_one_are_not_taken_for_it() {
    for code in ["invalid_record", "message_too_large"] {
        let bench = Bench::new().await;
        bench.cancelled(0..200).await;
        bench.order(&format!("errors produce {code} 2")).await;
        bench.run_until_delivered().await;
        let results = bench.records("results").await;
        assert_eq!(counted(&results).len(), 200, "{code}");
        assert!(faults(&results).iter().all(Option::is_none), "{code}: innocent ones are whole");
    }
}
