//! Which client's request a task works for.
//!
//! The id is set once, where the request comes in, and read where something is
//! asked of another node, so that it appears in that node's log too. It goes
//! with the task: what is spawned on the way works for nobody.

use std::future::Future;
use std::sync::Arc;

/// Bytes of an id. What is longer is clipped.
const LEN_MAX: usize = 128;

tokio::task_local! {
    static ID: Arc<str>;
}

/// Runs `future` for the request `id`.
pub async fn scope<F: Future>(id: &str, future: F) -> F::Output {
    ID.scope(clip(id).into(), future).await
}

/// The request that this task works for.
pub fn current() -> Option<Arc<str>> {
    ID.try_with(Arc::clone).ok()
}

/// As much of `id` as is logged.
pub fn clip(id: &str) -> &str {
    let mut end = id.len().min(LEN_MAX);
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    &id[..end]
}

#[cfg(test)]
mod tests {
    use super::{clip, current, scope};

    #[tokio::test]
    async fn an_id_holds_within_its_scope() {
        assert_eq!(current(), None);
        scope("outer", async {
            assert_eq!(scope("inner", async { current() }).await.as_deref(), Some("inner"));
            assert_eq!(current().as_deref(), Some("outer"));
        })
        .await;
        assert_eq!(current(), None);
    }

    #[test]
    fn long_ids_are_clipped_between_characters() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"x".repeat(200)).len(), 128);
        assert_eq!(clip(&"€".repeat(200)).len(), 126);
    }
}
