//! Parts of an output on their way from a worker to any coordinator.

use super::*;
use crate::domain::Digest;
use crate::mesh::fetch::{self, Missed, PART_MAX};
use crate::wire;
use crate::wire::proto::mesh::v1::{FetchRange, FetchReply};

/// A worker that keeps so many bytes of zero, and calls everything else gone.
fn keeps(mut worker: Node, size: u64) -> Node {
    let mut requests = worker.inbox.take().unwrap().requests;
    worker.tasks.spawn_until_stopped("keep", async move {
        while let Some(request) = requests.recv().await {
            let range: FetchRange = wire::decode(request.body).unwrap();
            let there = range.offset + u64::from(range.length) <= size;
            let code = if there { "" } else { "gone" }.to_owned();
            let data = vec![0; if there { range.length as usize } else { 0 }].into();
            request.reply.send(wire::encode(&FetchReply { code, data }));
        }
    });
    worker
}

/// A coordinator that hands questions on.
fn relays(mut node: Node) -> Node {
    let mut requests = node.inbox.take().unwrap().requests;
    let mesh = node.handle.clone();
    node.tasks.spawn_until_stopped("relay", async move {
        while let Some(request) = requests.recv().await {
            match fetch::relay(&mesh, request.body).await {
                Ok(answer) => request.reply.send(answer),
                Err(reason) => request.reply.refuse(reason),
            }
        }
    });
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_comes_directly_or_through_a_member_that_has_the_worker() {
    let near = relays(node(1, coordinator()).await);
    let far = relays(node(2, Options { persistent: addresses(&[&near]), ..coordinator() }).await);
    let w = keeps(node(20, worker(&[&near])).await, 1 << 20);
    near.connected_to(w.id()).await;
    far.connected_to(near.id()).await;
    assert!(!far.handle.is_connected(w.id()));
    let digest = Digest::default();
    for from in [&near, &far] {
        let part = fetch::part(&from.handle, w.id(), &digest, 1_000, PART_MAX).await.unwrap();
        assert_eq!(part.len(), PART_MAX as usize);
        let missed = fetch::part(&from.handle, w.id(), &digest, 1 << 20, 1).await.unwrap_err();
        assert_eq!(missed, Missed::Gone(w.id()));
    }
    let raft: u64 = far.handle.stats().lanes.iter().filter(|lane| lane.lane != "fetch").map(|lane| lane.bytes_in).sum();
    assert_eq!(raft, 0, "nothing went over another lane");

    let id = w.id();
    w.stop().await;
    eventually("the worker is gone", || !near.handle.is_connected(id)).await;
    for from in [&near, &far] {
        let missed = fetch::part(&from.handle, id, &digest, 0, 1).await.unwrap_err();
        assert_eq!(missed, Missed::Unreachable(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_another_length_or_kind_is_nonsense() {
    let c = node(1, coordinator()).await;
    let mut w = node(20, worker(&[&c])).await;
    let mut requests = w.inbox.take().unwrap().requests;
    w.tasks.spawn_until_stopped("lie", async move {
        for n in 0usize.. {
            let Some(request) = requests.recv().await else { return };
            let lies = [
                wire::encode(&FetchReply { code: String::new(), data: vec![0; 9].into() }),
                wire::encode(&FetchReply { code: "whatever".to_owned(), data: Bytes::new() }),
                Bytes::from_static(&[0xff; 30]),
            ];
            request.reply.send(lies[n % lies.len()].clone());
        }
    });
    c.connected_to(w.id()).await;
    for _ in 0..3 {
        let missed = fetch::part(&c.handle, w.id(), &Digest::default(), 0, 10).await.unwrap_err();
        assert_eq!(missed, Missed::Nonsense(w.id()));
    }
}
