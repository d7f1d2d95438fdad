//! Lists that reach into the archive: jobs in memory and on disk in one order.
//!
//! Ids order the list, wherever a job is; one that left memory while the page is
//! made is in it once. A job on disk is read before the filter can judge it, so
//! a page looks at no more than [`READS_MAX`] of them: a filter that takes few
//! leaves pages short, and the cursor says where to go on.

use super::body::JobBody;
use super::read::Filter;
use crate::api::page::Page;
use crate::api::problem::Problem;
use crate::consensus::Client;
use crate::domain::{JobId, JobState, State};

/// Archived jobs read for one page.
const READS_MAX: usize = 2_000;

/// Places looked up at once.
const SLICE: usize = 1_024;

/// Archived jobs in the order of their ids, as far as their states are wanted.
struct Cold<'a> {
    client: &'a Client,
    filter: &'a Filter,
    cursor: Option<JobId>,
    slice: std::vec::IntoIter<(JobId, JobState)>,
    done: bool,
}

impl Cold<'_> {
    fn next(&mut self) -> Option<JobId> {
        loop {
            if let Some((id, state)) = self.slice.next() {
                self.cursor = Some(id);
                if self.filter.takes_state(state) {
                    return Some(id);
                }
            } else if self.done {
                return None;
            } else {
                let slice = self.client.archived_after(self.cursor, SLICE);
                self.done = slice.len() < SLICE;
                self.slice = slice.into_iter();
            }
        }
    }
}

/// Fills a page with jobs after `start`, from `view` and from the archive.
pub(super) fn fill(
    page: &mut Page<JobBody, 16>,
    view: &State,
    client: &Client,
    filter: &Filter,
    start: Option<JobId>,
) -> Result<(), Problem> {
    let mut cold = Cold { client, filter, cursor: start, slice: Vec::new().into_iter(), done: false };
    let mut hot = view.jobs_after(start).filter(|job| filter.takes(job)).peekable();
    let mut next = cold.next();
    let mut reads = 0;
    loop {
        match (hot.peek(), next) {
            (None, None) => return Ok(()),
            (Some(job), other) if other.is_none_or(|id| job.id <= id) => {
                let id = job.id;
                if !page.push(id.0, || JobBody::of(view, job)) {
                    return Ok(());
                }
                hot.next();
                if other == Some(id) {
                    next = cold.next();
                }
            }
            (_, Some(id)) => {
                if page.is_full() || reads == READS_MAX {
                    page.more();
                    return Ok(());
                }
                reads += 1;
                push_cold(page, view, client, filter, id)?;
                next = cold.next();
            }
            (Some(_), None) => return Ok(()),
        }
    }
}

fn push_cold(
    page: &mut Page<JobBody, 16>,
    view: &State,
    client: &Client,
    filter: &Filter,
    id: JobId,
) -> Result<(), Problem> {
    // A job that is in the view, and not taken by the filter, left memory since: it is as it was.
    let found = if view.job(id).is_some() { None } else { client.archived(id)? };
    match found {
        Some(archived) if filter.takes(&archived.job) => {
            let job = archived.job.clone();
            let state = view.beside(archived);
            page.push(id.0, || JobBody::of(&state, &job));
        }
        _ => page.passed(id.0),
    }
    Ok(())
}
