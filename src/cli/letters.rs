//! What is done to several entries of a dead-letter queue, whichever it is.

use serde_json::json;

use super::client::{Call, Client};
use super::failure::Failure;
use super::{Remote, output};

/// Does the same to each letter. What fails does not keep the others from it; the first failure is the answer.
pub(super) async fn each(
    ids: &[String],
    call: impl Fn(&str) -> Call,
    done: &str,
    client: &Client,
    remote: &Remote,
) -> Result<(), Failure> {
    let (mut rows, mut failures) = (vec![], vec![]);
    for id in ids {
        match client.call(&call(id)).await {
            Ok(_) => rows.push(json!({ "id": id, "state": done })),
            Err(failure) => {
                rows.push(json!({ "id": id, "state": "failed", "error": failure.message }));
                failures.push(failure);
            }
        }
    }
    if remote.json {
        output::json(&json!({ "entries": rows }))?;
    } else {
        for row in rows.iter().filter(|row| row["state"] == done) {
            output::line(&format!("{} {done}", output::cell(&row["id"])))?;
        }
    }
    match failures.as_slice() {
        [] => Ok(()),
        [failure] => Err(failure.clone()),
        [first, ..] => {
            let message = format!("{} of {} letters: {}", failures.len(), ids.len(), first.message);
            Err(Failure { message, ..first.clone() })
        }
    }
}
