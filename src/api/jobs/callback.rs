//! How a job's client is told of its end.
//!
//! Absent: the URL. It may hold a token, and anyone who reaches the API sees jobs.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::text;
use crate::domain::Job;
use crate::domain::callback::Called;

#[derive(Serialize, ToSchema)]
#[schema(as = Callback)]
pub struct CallbackBody {
    /// not_due before the job's first end; then of its last.
    #[schema(pattern = "^(not_due|waiting|delivered|given_up)$")]
    state: &'static str,
    /// Number of the event that it tells of: what its `event_id` ends with.
    event: Option<u64>,
    /// Since when it is in this state.
    #[schema(format = DateTime)]
    at: Option<String>,
    /// How often the leader that delivered it, or gave it up, had tried.
    tries: Option<u32>,
    /// Why it was given up: http_STATUS, timeout, unreachable, forbidden_address, invalid_url or too_many_waiting.
    error: Option<String>,
}

impl CallbackBody {
    /// `None`: the client does not want to be told.
    pub fn of(job: &Job) -> Option<Self> {
        job.spec.callback_url.as_ref()?;
        let Some(callback) = job.callback.as_deref() else {
            return Some(Self { state: "not_due", event: None, at: None, tries: None, error: None });
        };
        let (state, tries, error) = match &callback.called {
            None => ("waiting", None, None),
            Some(Called::Delivered { tries }) => ("delivered", Some(*tries), None),
            Some(Called::GivenUp { tries, code }) => ("given_up", Some(*tries), Some(code.to_string())),
        };
        Some(Self { state, event: Some(callback.event), at: Some(text::time(callback.at)), tries, error })
    }
}
