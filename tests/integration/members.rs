//! Invitations, and changes of who is a member, on a cluster of one.

use serde_json::json;

use crate::node::Node;

#[tokio::test]
async fn an_invitation_is_made_shown_without_its_token_and_taken_back() {
    let node = Node::start().await;
    let made = node.post("/cluster/invitations", &json!({"learner": true, "ttl_secs": 60})).await;
    assert_eq!((made.status, &made.body["voter"]), (201, &json!(false)), "{}", made.text);
    let (id, token) = (made.body["id"].as_str().unwrap(), made.body["token"].as_str().unwrap());
    let shown = node.get("/cluster/invitations").await;
    assert!(!shown.text.contains(token), "{}", shown.text);
    let one = &shown.body["invitations"][0];
    assert_eq!((&one["id"], &one["state"], &one["used_by"]), (&json!(id), &json!("open"), &json!(null)));
    let path = format!("/cluster/invitations/{id}");
    assert_eq!(node.ask("DELETE", &path).send().await.status, 204);
    assert_eq!(node.ask("DELETE", &path).send().await.code(), "unknown_invitation");
    assert_eq!(node.get("/cluster/invitations").await.body["invitations"], json!([]));

    for (body, field) in [(json!({"ttl_secs": 0}), "ttl_secs"), (json!({"ttl_secs": 9e9 as u64}), "ttl_secs")] {
        let refused = node.post("/cluster/invitations", &body).await;
        assert_eq!((refused.status, refused.body["field"].as_str()), (422, Some(field)), "{}", refused.text);
    }
    let plain = node.ask("POST", "/cluster/invitations").send().await;
    assert_eq!((plain.status, &plain.body["voter"]), (201, &json!(true)), "{}", plain.text);
    assert!(plain.body["warnings"][0].as_str().unwrap().contains("two voters"), "{}", plain.text);
}

#[tokio::test]
async fn the_last_voter_stays_and_a_node_that_never_came_can_be_taken_back() {
    let node = Node::start().await;
    let own = node.get("/status").await.body["node_id"].as_str().unwrap().to_owned();
    let remove = node.ask("DELETE", &format!("/cluster/members/{own}?force=true")).send().await;
    assert_eq!((remove.status, remove.code()), (409, "last_voter"), "{}", remove.text);
    let demote = node.post("/cluster/members", &json!({"node_id": own, "voter": false, "force": true})).await;
    assert_eq!((demote.status, demote.code()), (409, "last_voter"), "{}", demote.text);
    let already = node.post("/cluster/members", &json!({"node_id": own})).await;
    assert_eq!((already.status, &already.body["state"]), (200, &json!("done")), "{}", already.text);

    let other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let address = format!("/ip4/127.0.0.1/tcp/9/p2p/{other}");
    let add = node.post("/cluster/members", &json!({"address": address})).await;
    assert_eq!((add.status, &add.body["state"]), (202, &json!("in_progress")), "{}", add.text);
    let shown = node.get("/cluster").await;
    assert!(shown.body["change_in_flight"].as_str().unwrap().contains(other), "{}", shown.text);
    let path = format!("/cluster/members/{other}");
    let gone = node.ask("DELETE", &path).send().await;
    assert_eq!((gone.status, &gone.body["state"]), (200, &json!("done")), "{}", gone.text);
    assert_eq!(node.get("/cluster").await.body["change_in_flight"], json!(null));
    assert_eq!(node.get("/cluster").await.body["dead_voters"], json!([]));
}
