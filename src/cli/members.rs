//! `cluster list|invite|add|remove|promote|demote`: who is a member.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Answer, Call, Client, segment};
use super::failure::Failure;
use super::{Remote, output};
use crate::clock;

const MEMBERS: &[(&str, &str)] = &[
    ("id", "id"),
    ("voter", "voter"),
    ("dead", "dead"),
    ("matched", "matched_index"),
    ("lag", "lag"),
    ("silent ms", "silent_ms"),
    ("address", "address"),
];

const INVITATIONS: &[(&str, &str)] =
    &[("id", "id"), ("state", "state"), ("voter", "voter"), ("expires", "expires_at"), ("used by", "used_by")];

/// Between two looks at a change that is under way.
const AGAIN: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The members, and how far each has the log
    List,
    /// Make an invitation: prints the token with which one node may join, once
    Invite {
        /// The node only follows, and does not vote
        #[arg(long)]
        learner: bool,
        /// How long it holds: a number and s, m, h or d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = seconds)]
        ttl: u64,
    },
    /// Invitations, without their tokens
    Invitations,
    /// Take an invitation back
    Revoke { id: String },
    /// Admit a node that was started with --join and without an invitation
    Add {
        /// Multiaddr that ends in /p2p/ and the node's peer id
        address: String,
        /// It only follows, and does not vote
        #[arg(long)]
        learner: bool,
    },
    /// Remove a member, also the leader
    Remove {
        id: String,
        /// Though it is unwise
        #[arg(long)]
        force: bool,
    },
    /// Make a learner a voter, once it has caught up
    Promote { id: String },
    /// Make a voter a learner
    Demote {
        id: String,
        /// Though it is unwise
        #[arg(long)]
        force: bool,
    },
}

/// `90s`, `15m`, `1h`, `7d`, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number and s, m, h or d, e.g. 1h".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.get(..text.len() - 1).and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

pub async fn run(command: Command, client: &Client, remote: &Remote) -> Result<(), Failure> {
    match command {
        Command::List => rows(client, &Call::get("/cluster"), "members", MEMBERS, remote).await,
        Command::Invitations => {
            rows(client, &Call::get("/cluster/invitations"), "invitations", INVITATIONS, remote).await
        }
        Command::Invite { learner, ttl } => {
            let body = json!({ "learner": learner, "ttl_secs": ttl });
            let answer = client.call(&Call::post("/cluster/invitations").body(body)).await?.body;
            warn(&answer);
            if remote.json { output::json(&answer) } else { output::line(answer["token"].as_str().unwrap_or_default()) }
        }
        Command::Revoke { id } => {
            client.call(&Call::delete(format!("/cluster/invitations/{}", segment(&id)))).await.map(drop)
        }
        Command::Add { address, learner } => {
            change(client, &post(json!({ "address": address, "voter": !learner })), remote).await
        }
        Command::Promote { id } => change(client, &post(json!({ "node_id": id, "voter": true })), remote).await,
        Command::Demote { id, force } => {
            change(client, &post(json!({ "node_id": id, "voter": false, "force": force })), remote).await
        }
        Command::Remove { id, force } => {
            let call = Call::delete(format!("/cluster/members/{}", segment(&id)));
            change(client, &if force { call.query("force", true) } else { call }, remote).await
        }
    }
}

/// Asking twice for the same change is asking how it stands.
fn post(body: Value) -> Call {
    Call::post("/cluster/members").body(body).idempotent()
}

/// Waits, within the patience, until the change is done.
async fn change(client: &Client, call: &Call, remote: &Remote) -> Result<(), Failure> {
    let give_up = clock::instant() + remote.patience();
    let mut answer: Answer = client.call(call).await?;
    warn(&answer.body);
    while answer.status == 202 && clock::instant() < give_up {
        tokio::time::sleep(AGAIN).await;
        answer = client.call(call).await?;
    }
    if remote.json { output::json(&answer.body) } else { output::thing(&answer.body) }
}

/// What an operator should know goes to standard error: the answer stays what it is.
fn warn(answer: &Value) {
    use std::io::Write;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        let _ = writeln!(std::io::stderr(), "warning: {}", output::cell(warning));
    }
}

async fn rows(
    client: &Client,
    call: &Call,
    key: &str,
    columns: &[(&str, &str)],
    remote: &Remote,
) -> Result<(), Failure> {
    let answer = client.call(call).await?.body;
    if remote.json {
        return output::json(&json!({ key: answer[key] }));
    }
    output::list(answer[key].as_array().map(Vec::as_slice).unwrap_or_default(), columns)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_numbers_with_a_unit() {
        assert_eq!(["90s", "15m", "1h", "7d"].map(|text| seconds(text).unwrap()), [90, 900, 3_600, 604_800]);
        for text in ["", "h", "1", "0s", "-1h", "1.5h", "1w", "99999999999999999999d", "1µ"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
