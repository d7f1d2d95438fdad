//! Reading: what comes back, where it begins, and what is not there.

use super::*;

#[tokio::test]
async fn records_come_back_byte_for_byte() {
    let stage = Stage::new(&[("jobs", 1)]);
    let bytes: Vec<u8> = (0..=255).collect();
    let cases = [
        (Some(bytes.clone()), Some(bytes.clone()), vec![header("a", Some(&bytes)), header("a", Some(b"again"))]),
        (None, None, vec![]),
        (Some(vec![]), Some(vec![]), vec![header("empty", Some(b"")), header("null", None)]),
        (None, Some(vec![0; 300_000]), vec![header("Größe", Some(b"x"))]),
    ];
    let messages = cases.iter().map(|(key, value, headers)| Message {
        topic: "jobs".to_owned(),
        partition: Some(0),
        key: key.clone(),
        value: value.clone(),
        headers: headers.clone(),
    });
    stage.handle.writer().unwrap().send(messages.collect()).await.unwrap();

    let mut reader = stage.reader("jobs", 0).await;
    let records = read(&mut reader, cases.len()).await;
    assert_eq!(records.len(), cases.len());
    for (n, (record, (key, value, headers))) in records.iter().zip(&cases).enumerate() {
        assert_eq!((record.partition.clone(), record.offset), (partition("jobs", 0), n as u64));
        assert_eq!((&record.key, &record.value, &record.headers), (key, value, headers), "record {n}");
        assert!(record.timestamp_ms.is_some_and(|ms| ms.abs_diff(clock::now().0) < 600_000), "{record:?}");
        assert_eq!(record.unreadable_headers, 0);
    }
}

#[tokio::test]
async fn reading_begins_where_it_is_told_and_nowhere_else() {
    let stage = Stage::new(&[("jobs", 2)]);
    stage.produce("jobs", 0..10).await;
    let mut reader = stage.reader("jobs", 7).await;
    assert_eq!(values(&read(&mut reader, 3).await), ["7", "8", "9"]);
    assert!(reader.read(10, 1 << 20, Duration::from_millis(200)).await.unwrap().is_empty());
    reader.assign(&[(partition("jobs", 0), 2), (partition("jobs", 1), 0)]).await.unwrap();
    assert_eq!(values(&read(&mut reader, 3).await), ["2", "3", "4"]);
    // What was fetched but not taken is dropped.
    reader.assign(&[(partition("jobs", 0), 9)]).await.unwrap();
    assert_eq!(values(&read(&mut reader, 1).await), ["9"]);
}

#[tokio::test]
async fn a_batch_ends_at_either_bound() {
    let stage = Stage::new(&[("jobs", 1)]);
    stage.produce("jobs", 100..200).await;
    let mut reader = stage.reader("jobs", 0).await;
    assert_eq!(reader.read(5, 1 << 20, SOON).await.unwrap().len(), 5);
    assert_eq!(reader.read(100, 7, SOON).await.unwrap().len(), 3, "3 bytes each, none once 7 are reached");
}

#[tokio::test]
async fn a_paused_partition_is_silent_and_goes_on_where_it_was() {
    let stage = Stage::new(&[("jobs", 1)]);
    stage.produce("jobs", 0..10).await;
    let mut reader = stage.reader("jobs", 0).await;
    assert_eq!(read(&mut reader, 4).await.len(), 4);
    reader.pause(&[partition("jobs", 0)]).await.unwrap();
    stage.produce("jobs", 10..12).await;
    assert!(reader.read(10, 1 << 20, Duration::from_millis(500)).await.unwrap().is_empty());
    reader.resume(&[partition("jobs", 0)]).await.unwrap();
    let rest: Vec<String> = (4..12).map(|n| n.to_string()).collect();
    assert_eq!(values(&read(&mut reader, 8).await), rest);
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_loses_nothing() {
    let stage = Stage::new(&[("jobs", 1)]);
    let mut reader = stage.reader("jobs", 0).await;
    for round in 0..5 {
        let waiting = tokio::time::timeout(Duration::from_millis(30), reader.read(10, 1 << 20, SOON));
        let (_, given_up) = tokio::join!(stage.produce("jobs", round * 10..round * 10 + 10), waiting);
        if let Ok(records) = given_up {
            // It was quicker: that round proves nothing, but must not lose anything either.
            let left = 10 - records.unwrap().len();
            assert_eq!(read(&mut reader, left).await.len(), left);
        } else {
            let expected: Vec<String> = (round * 10..round * 10 + 10).map(|n| n.to_string()).collect();
            assert_eq!(values(&read(&mut reader, 10).await), expected);
        }
    }
}

#[tokio::test]
async fn an_offset_that_is_not_there_names_its_partition_and_stops_no_other() {
    let stage = Stage::new(&[("jobs", 2)]);
    stage.produce("jobs", 0..3).await;
    let mut reader = stage.handle.reader().unwrap();
    reader.assign(&[(partition("jobs", 0), 0), (partition("jobs", 1), 1_000)]).await.unwrap();
    let (mut records, mut error) = (vec![], None);
    let until = clock::instant() + SOON;
    while (records.len() < 3 || error.is_none()) && clock::instant() < until {
        match reader.read(10, 1 << 20, Duration::from_secs(1)).await {
            Ok(more) => records.extend(more),
            Err(found) => error = Some(found),
        }
    }
    assert_eq!(values(&records), ["0", "1", "2"]);
    let wanted = Error::OutOfRange { partition: partition("jobs", 1), next: 1_000, low: 0, high: 0 };
    assert_eq!(error, Some(wanted.clone()));
    assert_eq!(wanted.to_string(), "offset 1000 of jobs/1 is not among 0 to 0");
    assert!(!wanted.is_retryable());
}

#[tokio::test]
async fn a_missing_topic_is_told_from_a_broker_that_is_down() {
    let stage = Stage::new(&[("jobs", 3)]);
    let reader = stage.handle.reader().unwrap();
    assert_eq!(reader.survey("nowhere").await, Err(Error::NoTopic("nowhere".to_owned())));
    let seen = view(&stage.handle, |view| view.state == State::Connected).await;
    assert_eq!(seen.missing, ["workers", "results", "jobs.dlq"]);
    assert_eq!(seen.last_error.as_deref(), Some("topics workers, results, jobs.dlq do not exist"));

    stage.produce("jobs", 0..5).await;
    let survey = reader.survey("jobs").await.unwrap();
    assert_eq!(Some(survey.cluster_id), seen.cluster_id);
    let marks: Vec<_> = survey.partitions.iter().map(|m| (m.partition.number, m.low, m.high)).collect();
    assert_eq!(marks, [(0, 0, 5), (1, 0, 0), (2, 0, 0)]);
    view(&stage.handle, |view| view.high(&partition("jobs", 0)) == Some(5)).await;
}

#[tokio::test]
async fn missing_topics_are_made_where_the_node_is_told_to() {
    let broker = Broker::start(1, &[]).unwrap();
    let (handle, tasks) = connect(Options { create_topics: true, ..options(&broker.bootstrap_servers()) });
    let seen = view(&handle, |view| view.state == State::Connected && view.missing.is_empty()).await;
    assert_eq!(seen.last_error, None);
    assert!(seen.high(&partition("jobs.dlq", 0)).is_some());
    tasks.cancel();
}

#[tokio::test]
async fn offsets_are_noted_for_dashboards() {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::{Offset, TopicPartitionList};
    let stage = Stage::new(&[("jobs", 1)]);
    let mut reader = stage.reader("jobs", 0).await;
    let config = super::super::settings::consumer(stage.handle.options(), Some("test.intake"));
    let dashboard: BaseConsumer = config.create().unwrap();
    let until = clock::instant() + SOON;
    loop {
        reader.note_offsets(&[(partition("jobs", 0), 42)]).await.unwrap();
        // The answer is heard while reading.
        reader.read(1, 1, Duration::from_millis(50)).await.unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition("jobs", 0);
        let noted = dashboard.committed_offsets(list, Duration::from_secs(5)).unwrap();
        if noted.find_partition("jobs", 0).unwrap().offset() == Offset::Offset(42) {
            break;
        }
        assert!(clock::instant() < until, "{noted:?}");
    }
}

/// `cargo test --release --lib kafka:: -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn how_fast_records_go_out_and_come_in() {
    const COUNT: usize = 12_000;
    let stage = Stage::new(&[("jobs", 1)]);
    let writer = stage.handle.writer().unwrap();
    let batch = |from: usize| (from..from + 1_000).map(|n| message("jobs", &format!("{n:0300}"))).collect();
    let (_, out) = timed(async {
        for from in (0..COUNT).step_by(1_000) {
            writer.send(batch(from)).await.unwrap();
        }
    })
    .await;
    let mut reader = stage.reader("jobs", 0).await;
    let (records, back) = timed(read(&mut reader, COUNT)).await;
    let rate = |took: Duration| COUNT as f64 / took.as_secs_f64();
    println!("{} of 300 bytes: out {:.0}/s, in {:.0}/s", records.len(), rate(out), rate(back));
    assert_eq!(records.len(), COUNT);
}
