//! Brokers that are away, come back, or were never there.

use super::*;

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

#[tokio::test]
async fn sending_outlasts_a_broker_that_comes_back() {
    let stage = Stage::new(&[("jobs", 1), ("workers", 1), ("results", 1), ("jobs.dlq", 1)]);
    view(&stage.handle, |view| view.state == State::Connected && view.last_error.is_none()).await;
    let writer = stage.handle.writer().unwrap();
    writer.send(vec![message("results", "before")]).await.unwrap();
    let mut reader = stage.reader("results", 0).await;
    assert_eq!(values(&read(&mut reader, 1).await), ["before"]);

    stage.order("down");
    let interrupted = async {
        let down = view(&stage.handle, |view| view.state == State::Down).await;
        assert!(down.last_error.is_some(), "{down:?}");
        assert!(down.cluster_id.is_some(), "what was known is kept");
        stage.order("up");
    };
    let (sent, ()) = tokio::join!(writer.send(vec![message("results", "meanwhile")]), interrupted);
    sent.unwrap();
    // The reader goes on without being told, whatever it complained of.
    let until = clock::instant() + SOON;
    let records = loop {
        match reader.read(10, 1 << 20, Duration::from_secs(1)).await {
            Ok(records) if records.is_empty() => {}
            Ok(records) => break records,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(clock::instant() < until);
    };
    assert_eq!(values(&records), ["meanwhile"]);
    let seen = view(&stage.handle, |view| view.state == State::Connected).await;
    assert_eq!((seen.last_error, seen.alarms), (None, vec![]));
}

#[tokio::test]
async fn a_slow_broker_is_not_a_dead_one() {
    let stage = Stage::new(&[("jobs", 1), ("workers", 1), ("results", 1), ("jobs.dlq", 1)]);
    stage.order("rtt 500");
    let writer = stage.handle.writer().unwrap();
    writer.send(vec![message("jobs", "a"), message("jobs", "b")]).await.unwrap();
    let mut reader = stage.reader("jobs", 0).await;
    assert_eq!(values(&read(&mut reader, 2).await), ["a", "b"]);
    view(&stage.handle, |view| view.state == State::Connected && view.high(&partition("jobs", 0)) == Some(2)).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_said_to_be_down_in_time() {
    let quick = Timing {
        probe: Duration::from_millis(200),
        request: Duration::from_secs(1),
        send: Duration::from_secs(2),
        transaction: Duration::from_secs(2),
    };
    let (handle, tasks) = connect(Options { timing: quick, ..options(NOWHERE) });
    let (down, took) = timed(view(&handle, |view| view.state == State::Down)).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(down.last_error.unwrap().contains("Connection refused"), "{:?}", handle.view());

    let mut reader = handle.reader().unwrap();
    reader.assign(&[(partition("jobs", 0), 0)]).await.unwrap();
    let (surveyed, took) = timed(reader.survey("jobs")).await;
    assert!(matches!(surveyed, Err(Error::Down(_))) && took < Duration::from_secs(5), "{surveyed:?} {took:?}");
    let (read, took) = timed(reader.read(1, 1, Duration::from_secs(1))).await;
    assert!(matches!(&read, Err(Error::Down(_))) || read == Ok(vec![]), "{read:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let writer = handle.writer().unwrap();
    let (sent, took) = timed(writer.send(vec![message("jobs", "a")])).await;
    assert!(matches!(sent, Err(Error::Down(_))) && took < Duration::from_secs(10), "{sent:?} {took:?}");
    let (opened, took) = timed(handle.exact_writer()).await;
    assert!(matches!(opened, Err(Error::Down(_))) && took < Duration::from_secs(10), "{opened:?} {took:?}");
    tasks.cancel();
}

#[tokio::test]
async fn a_node_that_stops_waits_for_no_broker() {
    let (handle, tasks) = connect(options(NOWHERE));
    let mut reader = handle.reader().unwrap();
    reader.assign(&[(partition("jobs", 0), 0)]).await.unwrap();
    let surveyor = handle.reader().unwrap();
    let writer = handle.writer().unwrap();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        tasks.cancel();
    };
    let all = async {
        tokio::join!(
            surveyor.survey("jobs"),
            reader.read(1, 1, SOON),
            writer.send(vec![message("jobs", "a")]),
            handle.exact_writer(),
            stop
        )
    };
    let ((surveyed, read, sent, opened, ()), took) = timed(all).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!((surveyed, sent), (Err(Error::Stopping), Err(Error::Stopping)));
    assert!(matches!(opened, Err(Error::Stopping)), "{opened:?}");
    // It may have heard that nobody is there before it heard that the node stops.
    assert!(matches!(&read, Err(Error::Down(_))) || read == Ok(vec![]), "{read:?}");
    let (_, took) = timed(async { drop((reader, surveyor, writer)) }).await;
    assert!(took < Duration::from_millis(500), "letting go takes {took:?}");
}
