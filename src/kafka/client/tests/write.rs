//! Writing: order, acknowledgements, and what a broker may say against it.

use super::*;

#[tokio::test]
async fn records_of_one_key_keep_their_order_and_their_partition() {
    let stage = Stage::new(&[("results", 4)]);
    let writer = stage.handle.writer().unwrap();
    let keyed = |n: usize| Message {
        partition: None,
        key: Some(vec![u8::try_from(n % 7).unwrap()]),
        ..message("results", &n.to_string())
    };
    // Two of four requests are refused for a while: what is sent again keeps its place, and is there once.
    stage.order("errors produce not_enough_replicas 4");
    for from in [0, 100] {
        writer.send((from..from + 100).map(keyed).collect()).await.unwrap();
    }
    let mut reader = stage.handle.reader().unwrap();
    let all: Vec<_> = (0..4).map(|number| (partition("results", number), 0)).collect();
    reader.assign(&all).await.unwrap();
    let records = read(&mut reader, 200).await;
    assert_eq!(records.len(), 200);
    for key in 0..7_u8 {
        let ours: Vec<&Record> = records.iter().filter(|record| record.key == Some(vec![key])).collect();
        assert!(ours.iter().all(|record| record.partition == ours[0].partition), "key {key}");
        let expected: Vec<String> = (0..200).filter(|n| n % 7 == usize::from(key)).map(|n| n.to_string()).collect();
        assert_eq!(ours.iter().map(|record| values(&[(*record).clone()]).remove(0)).collect::<Vec<_>>(), expected);
    }
    assert!(reader.read(1, 1, Duration::from_millis(300)).await.unwrap().is_empty(), "nothing is there twice");
}

#[tokio::test]
async fn more_than_the_queue_holds_is_sent_all_the_same() {
    let stage = Stage::new(&[("results", 1)]);
    let count = 25_000;
    stage.produce("results", 0..count).await;
    let seen = stage.handle.reader().unwrap().survey("results").await.unwrap();
    assert_eq!(seen.partitions[0].high, count as u64);
}

#[tokio::test]
async fn a_message_that_is_too_long_is_named() {
    let stage = Stage::new(&[("results", 1)]);
    let writer = stage.handle.writer().unwrap();
    let long = Message { value: Some(vec![1; 5 << 20]), ..message("results", "") };
    let sent = writer.send(vec![message("results", "a"), long]).await;
    assert_eq!(sent, Err(Error::TooLarge { index: 1, bytes: 5 << 20 }));
    assert_eq!(stage.handle.reader().unwrap().survey("results").await.unwrap().partitions[0].high, 0, "none was sent");

    stage.order("errors produce message_too_large 1");
    let sent = writer.send(vec![message("results", "abc")]).await;
    assert_eq!(sent, Err(Error::TooLarge { index: 0, bytes: 3 }));
    writer.send(vec![message("results", "a")]).await.unwrap();
    writer.send(vec![]).await.unwrap();
}

#[tokio::test]
async fn a_topic_that_is_missing_is_not_made_by_writing_to_it() {
    let stage = Stage::new(&[("jobs", 1)]);
    let writer = stage.handle.writer().unwrap();
    let (sent, took) = timed(writer.send(vec![message("nowhere", "a")])).await;
    assert_eq!(sent, Err(Error::NoTopic("nowhere".to_owned())));
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_broker_that_refuses_for_good_is_told_from_one_that_is_down() {
    let stage = Stage::new(&[("results", 1)]);
    stage.order("errors produce topic_authorization_failed 1");
    let sent = stage.handle.writer().unwrap().send(vec![message("results", "a")]).await;
    assert!(matches!(&sent, Err(Error::Refused(_))), "{sent:?}");
    assert!(!sent.unwrap_err().is_retryable());
}

#[tokio::test]
async fn an_exact_writer_needs_its_topic() {
    let stage = Stage::new(&[("results", 1)]);
    let opened = stage.handle.exact_writer().await.map(|(_, watermark)| watermark);
    assert_eq!(opened, Err(Error::NoTopic("results.progress".to_owned())));
}

/// The mock broker counts transactions only; that they hold together is shown on Apache Kafka.
#[tokio::test]
async fn an_exact_writer_writes_and_is_spent_by_an_error() {
    let stage = Stage::new(&[("results", 1), ("results.progress", 1)]);
    let (mut writer, watermark) = stage.handle.exact_writer().await.unwrap();
    assert_eq!(watermark, None);
    writer.send(vec![message("results", "a"), message("results", "b")], 2).await.unwrap();
    writer.send(vec![], 2).await.unwrap();
    let mut reader = stage.reader("results", 0).await;
    assert_eq!(values(&read(&mut reader, 2).await), ["a", "b"]);
    stage.order("errors produce topic_authorization_failed 1");
    assert!(writer.send(vec![message("results", "c")], 3).await.is_err());
    let spent = writer.send(vec![message("results", "c")], 3).await.unwrap_err();
    assert!(spent.wants_new_client(), "{spent}");
}
