//! A record that no client of ours would write: its header's name is no UTF-8.
//!
//! It is put together by hand (Produce v3, record batch v2), because libraries
//! refuse to.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn varint(bytes: &mut Vec<u8>, number: i64) {
    let mut left = u64::from_ne_bytes(((number << 1) ^ (number >> 63)).to_ne_bytes());
    while left >= 0x80 {
        bytes.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    bytes.push(u8::try_from(left).unwrap());
}

fn counted(bytes: &mut Vec<u8>, field: &[u8]) {
    varint(bytes, i64::try_from(field.len()).unwrap());
    bytes.extend(field);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// One record without a key, with these headers.
fn batch(value: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut record = vec![0, 0, 0];
    varint(&mut record, -1);
    counted(&mut record, value);
    varint(&mut record, i64::try_from(headers.len()).unwrap());
    for (name, value) in headers {
        counted(&mut record, name);
        counted(&mut record, value);
    }
    let mut body = vec![];
    body.extend(0_i16.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    let now = i64::try_from(clock::now().0).unwrap();
    body.extend([now.to_be_bytes(), now.to_be_bytes(), (-1_i64).to_be_bytes()].concat());
    body.extend((-1_i16).to_be_bytes());
    body.extend((-1_i32).to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    counted(&mut body, &record);
    let mut rest = vec![];
    rest.extend((-1_i32).to_be_bytes());
    rest.push(2);
    rest.extend(crc32c(&body).to_be_bytes());
    rest.extend(body);
    [&0_i64.to_be_bytes()[..], &u32::try_from(rest.len()).unwrap().to_be_bytes(), &rest].concat()
}

/// The request that produces a batch to partition 0.
fn request(topic: &str, batch: &[u8]) -> Vec<u8> {
    let mut request = vec![];
    request.extend([0_i16.to_be_bytes(), 3_i16.to_be_bytes()].concat());
    request.extend(7_i32.to_be_bytes());
    // No client id, no transaction; acknowledged by all.
    request.extend([(-1_i16).to_be_bytes(), (-1_i16).to_be_bytes(), (-1_i16).to_be_bytes()].concat());
    request.extend([5_000_i32.to_be_bytes(), 1_i32.to_be_bytes()].concat());
    request.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend([1_i32.to_be_bytes(), 0_i32.to_be_bytes()].concat());
    request.extend(u32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    [&u32::try_from(request.len()).unwrap().to_be_bytes()[..], &request].concat()
}

#[test]
fn the_checksum_is_the_one_of_the_standard() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[tokio::test]
async fn a_header_whose_name_is_no_text_is_counted_and_ends_nothing() {
    let stage = Stage::new(&[("jobs", 1)]);
    let mut stream = TcpStream::connect(stage.broker.bootstrap_servers()).await.unwrap();
    let hostile = batch(b"job", &[(b"good", b"1"), (b"\xff\xfe", b"2"), (b"better", b"3")]);
    stream.write_all(&request("jobs", &hostile)).await.unwrap();
    let length = stream.read_u32().await.unwrap();
    assert!((8..1_000).contains(&length), "{length}");
    stage.produce("jobs", 1..2).await;

    let mut reader = stage.reader("jobs", 0).await;
    let records = read(&mut reader, 2).await;
    assert_eq!(values(&records), ["job", "1"]);
    assert_eq!(records[0].headers, [header("good", Some(b"1")), header("better", Some(b"3"))]);
    assert_eq!((records[0].unreadable_headers, records[1].unreadable_headers), (1, 0));
    assert!(!crate::kafka::is_guarded());
}
