//! How a leader begins, and what keeps it from new work.
//!
//! First what its predecessors left in flight is resolved: that is the same work
//! as ever, so it is done by [`super::watch`]. New work waits until nothing of
//! theirs is in flight. Then the epoch is raised above the log's and above the
//! contract's, which is read only now: a predecessor's transaction that was still
//! to land may have raised it.

use std::time::Duration;

use tracing::{info, warn};

use super::items::Place;
use super::purse::shut;
use super::worries::Worry;
use super::{Rest, SHUT, Settler, Trouble};
use crate::chain::Generation;
use crate::clock;
use crate::domain::State;
use crate::domain::chain::{Act, Site};
use crate::domain::command::Done;
use crate::domain::journal::Sink;

/// Until another epoch is claimed after somebody else used a higher one; doubled each time.
const OVERTAKEN_FIRST: Duration = Duration::from_secs(1);
const OVERTAKEN_MAX: Duration = Duration::from_secs(60);

/// What is looked at before all else.
const SHUTS: [Worry; 4] = [Worry::Site, Worry::Key, Worry::Shut, Worry::Down];

impl Settler {
    /// The first leader ever says which site the books are of, so that the journal keeps what is to be settled. While
    /// nothing is noted of it, another one may say otherwise: it was set up wrongly.
    pub(super) async fn begin(&mut self) -> Result<(), Trouble> {
        let Some(site) = self.chain.site() else { return Ok(()) };
        let is_new = |state: &State| match state.chain().site() {
            Some(known) if *known == site => state.journal().cursor(Sink::Chain).is_none(),
            Some(_) => state.chain().is_blank(),
            None => true,
        };
        if self.reign.context.client.read(is_new) {
            info!(contract = %site.contract, account = %site.account, "the books are of this site");
            self.claim(site, 0).await?;
        }
        Ok(())
    }

    /// What keeps this leader from new work, if anything, and when to look again.
    pub(super) async fn held_up(&mut self, place: Place) -> Result<Option<Rest>, Trouble> {
        let Some(site) = self.chain.site() else {
            self.worries.only(&SHUTS, Some((Worry::Down, "the chain has not answered yet".to_owned())));
            return Ok(Some(Rest::For(SHUT)));
        };
        let known = self.books(|chain| chain.site().cloned());
        let told = shut(&self.chain.view(), &site, known.as_ref());
        let is_shut = told.is_some();
        self.worries.only(&SHUTS, told);
        if is_shut {
            return Ok(Some(Rest::For(SHUT)));
        }
        if self.claimed {
            return Ok(None);
        }
        if self.waiting() > 0 {
            return Ok(Some(self.until_next_look()));
        }
        if let Some(left) = self.claim_after.map(|at| at.saturating_duration_since(clock::instant())) {
            if !left.is_zero() {
                return Ok(Some(Rest::For(left.min(SHUT))));
            }
            self.claim_after = None;
        }
        let least = match place.generation {
            Generation::SubmissionOnly => 0,
            _ => self.chain.epoch().await?.saturating_add(1),
        };
        let epoch = self.claim(site, least).await?;
        info!(epoch, "settlement begins");
        self.claimed = true;
        Ok(None)
    }

    async fn claim(&mut self, site: Site, least: u64) -> Result<u64, Trouble> {
        match self.tell(vec![Act::Claim { site, least }]).await?.into_iter().next() {
            Some(Ok(Done::Epoch(epoch))) => Ok(epoch),
            Some(Err(refusal)) => Err(refusal.into()),
            _ => Ok(self.books(|chain| chain.epoch())),
        }
    }

    /// The contract knows a higher epoch than ours: whoever has it leads after us, or is of another cluster.
    pub(super) fn overtaken(&mut self) {
        self.claimed = false;
        let pause = OVERTAKEN_FIRST.saturating_mul(1 << self.overtaken.min(6)).min(OVERTAKEN_MAX);
        self.overtaken = self.overtaken.saturating_add(1);
        self.claim_after = Some(clock::instant() + pause);
        warn!(times = self.overtaken, "another sender uses a higher epoch of our account");
        let text = "the contract knows a higher epoch of our account than ours: another cluster may settle with this \
                    account. Give each cluster an account of its own"
            .to_owned();
        self.worries.note(Worry::Epoch, Some(text));
    }

    /// Something landed in our epoch.
    pub(super) fn not_overtaken(&mut self) {
        self.overtaken = 0;
        self.worries.note(Worry::Epoch, None);
    }
}
