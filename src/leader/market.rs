//! The market: announces open jobs, hears bids, awards.
//!
//! One announcement names all open jobs of a round. Workers that are
//! asked answer with one message, also when they offer nothing, so a round ends
//! when everyone who could win has answered, at the latest when its window is
//! over. Awards are committed as one batch, and while they commit the next round
//! is open ([`super::flights`]); `dispatch` brings them to the workers. Nothing of
//! a round is logged but its awards: a new leader announces again and hears the
//! bids again. One round is open at a time; when leadership ends, it and the
//! commits under way are dropped, and the log alone says which awards hold.
//! Which jobs it names and who wins them is decided by [`super::looks`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::asking::{self, Waits};
use super::flights::{Commits, Flights, Landed};
use super::leases::millis;
use super::looks::{Closed, Looks, Sight};
use super::round::{Round, open_job, parse};
use super::{Offer, Reign};
use crate::clock;
use crate::domain::auction::{Bid, Sealed, Win};
use crate::domain::{Command, JobId, State, WorkerId};
use crate::mesh::{Audience, KEEP_MAX, Topic};
use crate::telemetry::metrics;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Bytes of one announcement: gossip takes 64 KiB.
const ANNOUNCEMENT_BYTES: usize = 56 * 1024;

/// A worker that was silent longer than this is not waited for.
const FRESH: Duration = Duration::from_millis(2_500);

/// Shortest time from one look to the next after a look that found nothing to announce: every applied record is a reason for another.
const PACE_QUIET: Duration = Duration::from_millis(10);

/// Longest lease that an award comes with: one that its worker never acknowledges is soon free again. The first
/// heartbeat that claims the attempt renews it to the full lease.
const FIRST_LEASE: Duration = Duration::from_secs(15);

pub(super) async fn run(reign: Reign, mut offers: mpsc::Receiver<Offer>) {
    let mut applied = reign.context.client.applied();
    reign.context.roster.lost_bids.clear();
    let mut market = Market::new(reign);
    let mut commits = Commits::default();
    loop {
        applied.borrow_and_update();
        while commits.is_full() {
            market.land(commits.landed().await);
        }
        let begun = clock::instant();
        let (outcome, landed) = commits.alongside(market.round(&mut offers)).await;
        landed.into_iter().for_each(|commit| market.land(commit));
        let quiet = matches!(outcome, Outcome::Quiet) && market.flights.is_empty();
        let pace = if quiet { PACE_QUIET } else { asking::pace(market.hearing) };
        let awarded = matches!(outcome, Outcome::Awarded(_));
        if let Outcome::Awarded(wins) = outcome {
            commits.push(market.settle(wins));
        }
        let ((), landed) = commits.alongside(tokio::time::sleep(pace.saturating_sub(begun.elapsed()))).await;
        landed.into_iter().for_each(|commit| market.land(commit));
        if awarded {
            continue;
        }
        let tick = market.reign.context.options.tick;
        tokio::select! {
            commit = commits.landed() => market.land(commit),
            _ = applied.changed() => {}
            () = tokio::time::sleep(tick) => {}
        }
    }
}

struct Market {
    reign: Reign,
    seq: u64,
    looks: Looks,
    flights: Flights,
    waits: Waits,
    /// Workers that heard the last one.
    hearing: usize,
}

/// What came of a round.
enum Outcome {
    /// Nothing was announced.
    Quiet,
    /// It was announced, and nobody won.
    Announced,
    Awarded(Vec<Win>),
}

impl Market {
    fn new(reign: Reign) -> Self {
        Self {
            reign,
            seq: 0,
            looks: Looks::default(),
            flights: Flights::default(),
            waits: Waits::default(),
            hearing: 0,
        }
    }

    async fn round(&mut self, offers: &mut mpsc::Receiver<Offer>) -> Outcome {
        let Some(mut round) = self.open() else { return Outcome::Quiet };
        let started = clock::instant();
        self.seq += 1;
        while offers.try_recv().is_ok() {}
        if let Err(error) = self.announce(&mut round) {
            debug!(%error, "announcement not published");
            return Outcome::Quiet;
        }
        self.hearing = self.looks.announced(&round.asked);
        self.waits.announced(round.jobs.iter().map(|job| job.id), started);
        let (bids, answers) = self.collect(&mut round, offers, started).await;
        let mesh = self.reign.context.mesh.clone();
        let mut blame = |worker| mesh.penalise(worker, "unsigned_bid");
        let closed = self.looks.close(&round, bids, &answers, clock::instant(), &mut blame);
        let Closed { wins, bids, dear } = closed;
        metrics::auction_closed(started.elapsed(), round.jobs.len(), bids.len(), wins.len());
        for (job, note) in round.lost(&wins, bids.iter().chain(&dear), answers.len()) {
            self.reign.context.roster.lost_bids.note(job, note);
        }
        if wins.is_empty() { Outcome::Announced } else { Outcome::Awarded(wins) }
    }

    /// Picks the jobs and the workers of a round. `None` if either is missing.
    fn open(&mut self) -> Option<Round> {
        let now = clock::instant();
        let context = self.reign.context.clone();
        let at = context.client.log_now();
        let idle = |state: &State| state.open_count() == 0 && state.open_jobs(at).next().is_none();
        if context.client.read(idle) {
            return None;
        }
        let fresh: BTreeSet<WorkerId> =
            context.roster.fresher_than(now, FRESH).into_iter().filter(|(_, h)| !h.stopping).map(|(w, _)| w).collect();
        let connected = |worker| context.mesh.is_connected(worker);
        let sight = Sight {
            now,
            at,
            fresh: &fresh,
            flights: &self.flights,
            offline_after: context.options.offline_after,
            announced_max: context.options.announced_max,
            connected: &connected,
        };
        // `apply` waits for a read, so a look that will take long has a frozen view, which costs memory.
        let round = if self.looks.takes_long() {
            self.looks.look(&context.client.view(), &sight)
        } else {
            let looks = &mut self.looks;
            context.client.read(|state| looks.look(state, &sight))
        };
        (!round.jobs.is_empty() && (self.flights.is_empty() || round.is_worthwhile())).then_some(round)
    }

    /// Where workers find the members: as the books say, and as the configuration does.
    fn coordinators(&self) -> Vec<String> {
        let super::Context { client, coordinators, .. } = &self.reign.context;
        let seated: Vec<(String, String)> = client.read(|state| {
            state.members().seated().map(|(node, known)| (node.to_string(), known.address.to_string())).collect()
        });
        let member = |told: &&String| seated.iter().any(|(node, at)| told.ends_with(node) && at != *told);
        let told = coordinators.iter().filter(member).cloned();
        seated.iter().map(|(_, at)| at.clone()).chain(told).take(KEEP_MAX).collect()
    }

    /// Announces as many jobs of the round as one message takes; the others are not in it.
    fn announce(&self, round: &mut Round) -> Result<(), crate::mesh::Error> {
        let mut message = proto::Announcement {
            term: self.reign.number,
            seq: self.seq,
            window_ms: u32::try_from(self.reign.context.options.window.as_millis()).unwrap_or(u32::MAX),
            jobs: Vec::with_capacity(round.jobs.len()),
            coordinators: self.coordinators(),
            asked_permille: round.asked.permille,
            uptime_ms: 0,
        };
        let mut bytes = prost::Message::encoded_len(&message);
        for job in &round.jobs {
            let open = open_job(job, round.at);
            bytes += prost::Message::encoded_len(&open) + 8;
            if bytes > ANNOUNCEMENT_BYTES {
                break;
            }
            message.jobs.push(open);
        }
        round.jobs.truncate(message.jobs.len());
        let (mesh, body) = (&self.reign.context.mesh, wire::encode(&message));
        let Some((groups, _)) = &round.asked.groups else { return mesh.publish(Topic::Announcements, body) };
        groups.iter().try_for_each(|group| mesh.publish_to(Topic::Announcements, Audience::Group(*group), body.clone()))
    }

    /// Hears bids until everyone answered or the window is over; longer if next to nobody answered in it.
    async fn collect(
        &self,
        round: &mut Round,
        offers: &mut mpsc::Receiver<Offer>,
        started: Instant,
    ) -> (Vec<Bid>, BTreeMap<WorkerId, proto::Bids>) {
        let window = self.reign.context.options.window;
        let announced: BTreeMap<JobId, u32> = round.jobs.iter().map(|job| (job.id, job.attempt + 1)).collect();
        let mut missing = round.awaited(self.reign.number, self.seq);
        let asked = missing.len();
        let (mut bids, mut answers) = (Vec::new(), BTreeMap::new());
        while !missing.is_empty() {
            let until = tokio::time::Instant::from_std(started + asking::patience(window, asked, missing.len()));
            let Ok(Some(offer)) = tokio::time::timeout_at(until, offers.recv()).await else { break };
            let current = (offer.bids.term, offer.bids.seq) == (self.reign.number, self.seq);
            if !current || !missing.remove(&offer.worker) {
                continue;
            }
            let rtt_us = self.reign.context.mesh.rtt_us(offer.worker);
            match parse(&offer, &announced, rtt_us) {
                Some(parsed) => {
                    bids.extend(parsed);
                    if let Some(seat) = round.seats.get_mut(&offer.worker) {
                        seat.room = seat.room.min(offer.bids.room);
                    }
                    answers.insert(offer.worker, offer.bids);
                }
                None => self.reign.context.mesh.penalise(offer.worker, "invalid_bid"),
            }
        }
        (bids, answers)
    }

    fn land(&mut self, commit: Landed) {
        self.flights.land(commit.flight);
        self.waits.awarded(&commit.awarded, clock::instant()).for_each(metrics::awarded);
    }

    /// Sends the awards off; what is returned is done when they are in the log, or are known not to be.
    fn settle(&mut self, wins: Vec<Win>) -> BoxFuture<'static, Landed> {
        let flight = self.flights.take_off(&wins);
        let jobs: Vec<JobId> = wins.iter().map(|win| win.job).collect();
        let lease_ms = millis(self.reign.context.options.lease.min(FIRST_LEASE));
        let commands = wins
            .into_iter()
            .map(|Win { job, attempt, worker, price, evidence }| {
                let evidence = Sealed::of(evidence);
                Command::Assign { job, attempt, worker, price, lease_ms, evidence }
            })
            .collect();
        let reign = self.reign.clone();
        Box::pin(async move {
            let awarded = match reign.record("market", commands).await {
                Ok(replies) => {
                    jobs.into_iter().zip(&replies).filter(|(_, reply)| reply.is_ok()).map(|(job, _)| job).collect()
                }
                Err(error) => {
                    info!(%error, "awards not recorded, the jobs stay open");
                    vec![]
                }
            };
            Landed { flight, awarded }
        })
    }
}
