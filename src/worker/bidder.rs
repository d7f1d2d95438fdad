//! What to bid, given an announcement and what this worker has to offer.
//!
//! Pure. The leader closes its window early once everyone it waits for has
//! spoken, so who is asked and could bid answers also when the answer is empty.
//! The others are not waited for, and say nothing ([`is_due`]).
//!
//! Invariants
//!
//! * A bid is made only for a job this worker could run: a type it runs, input
//!   it takes, hardware and frameworks it declared.
//! * Never below the operator's price. What is above the job's maximum price can
//!   not win; a few such bids follow the others, so that whoever asks why a job
//!   waits can be told at what price it would not.
//! * More bids than room are fine: the leader awards at most `room`.

use std::collections::BTreeMap;

use prost::Message;

use super::inputs::LOADED_MAX;
use super::pricing::Rates;
use crate::domain::worker::Capabilities;
use crate::domain::{Price, WorkerId};
use crate::wire;
use crate::wire::proto::job::v1::Requirements;
use crate::wire::proto::mesh::v1::{Announcement, Bid, Bids, OpenJob};

/// Largest encoded answer; gossip takes 64 KiB with its envelope.
const MESSAGE_MAX: usize = 60 * 1024;

/// Bids per unit of room: others bid for the same jobs, so some will be lost. A round names about two jobs per unit of
/// room there is, so each job is bid for by four workers on average.
const BIDS_PER_ROOM: usize = 8;

/// At least this many when there is room at all.
const BIDS_MIN: usize = 16;

/// Bids above what the job offers, per announcement.
const DEAR_MAX: usize = 8;

/// On what terms this worker runs one type of job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Before [`Rates`].
    pub price: Price,
    pub rates: Rates,
    pub max_input_bytes: u64,
    /// A fetched input must fit into memory: it may have [`LOADED_MAX`] bytes.
    pub loads_input: bool,
    /// Longest run the operator allows.
    pub max_run_secs: u32,
}

/// What this worker has to offer right now.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    pub capabilities: &'a Capabilities,
    pub terms: &'a BTreeMap<String, Terms>,
    /// How long jobs of a type took lately, in milliseconds.
    pub expected_ms: &'a BTreeMap<String, u32>,
    /// Bytes of an input that is fetched.
    pub fetched_max: u64,
    pub room: u32,
    pub load_permille: u32,
    /// Drawn for this answer: where to go on when there are more jobs than bids to make.
    pub turn: u64,
}

/// Whether the leader waits for an answer: `worker` is asked, has room in the leader's books, and runs a type that is
/// announced.
pub fn is_due(announcement: &Announcement, worker: WorkerId, offer: &Offer<'_>) -> bool {
    offer.room > 0
        && wire::is_asked(worker, announcement.term, announcement.seq, announcement.asked_permille)
        && announcement.jobs.iter().any(|job| offer.terms.contains_key(&job.r#type))
}

/// The answer to `announcement`. The jobs announced first are bid for first; if there are more than this worker
/// bids for, the other half of its bids goes to jobs further behind, so that many small workers do not all chase the
/// same few.
pub fn answer(announcement: &Announcement, offer: &Offer<'_>) -> Bids {
    let mut bids = Bids {
        term: announcement.term,
        seq: announcement.seq,
        room: offer.room,
        load_permille: offer.load_permille,
        bids: Vec::new(),
        ..Bids::default()
    };
    let mut size = bids.encoded_len();
    let able = announcement.jobs.iter().filter_map(|job| bid_for(job, offer, false)).collect();
    let dear = announcement.jobs.iter().filter_map(|job| bid_for(job, offer, true));
    let dear = dear.take(most_bids(offer.room).min(DEAR_MAX));
    let chosen = choose(able, most_bids(offer.room), offer.turn);
    for bid in chosen.into_iter().chain(dear).take(wire::ANNOUNCED_MAX) {
        // Tag and length prefix take at most 3 bytes at this size.
        size += bid.encoded_len() + 3;
        if size > MESSAGE_MAX {
            break;
        }
        bids.bids.push(bid);
    }
    bids
}

fn choose(mut able: Vec<Bid>, most: usize, turn: u64) -> Vec<Bid> {
    if able.len() > most {
        let mut behind = able.split_off(most / 2);
        let start = usize::try_from(turn % behind.len() as u64).unwrap_or(0);
        behind.rotate_left(start);
        able.extend(behind.into_iter().take(most - most / 2));
    }
    able
}

fn most_bids(room: u32) -> usize {
    if room == 0 {
        return 0;
    }
    (room as usize).saturating_mul(BIDS_PER_ROOM).clamp(BIDS_MIN, wire::ANNOUNCED_MAX)
}

/// `dear`: only for jobs that offer less than our price, else only for the others.
fn bid_for(job: &OpenJob, offer: &Offer<'_>, dear: bool) -> Option<Bid> {
    wire::job_id(&job.id)?;
    let terms = offer.terms.get(&job.r#type)?;
    let runnable = takes_input(job, terms, offer) && job.timeout_secs <= terms.max_run_secs;
    let expected_ms = offer.expected_ms.get(&job.r#type).copied();
    let price = terms.rates.price(terms.price, job, expected_ms, offer.load_permille)?;
    if !runnable || affordable(job, price)? == dear {
        return None;
    }
    if !job.requirements.as_ref().is_none_or(|wanted| meets(wanted, offer)) {
        return None;
    }
    Some(Bid {
        job: job.id.clone(),
        attempt: job.attempt,
        price: wire::price_to_bytes(price),
        expected_ms: expected_ms.unwrap_or(0),
    })
}

fn takes_input(job: &OpenJob, terms: &Terms, offer: &Offer<'_>) -> bool {
    if job.input_scheme.is_empty() {
        return job.input_size <= terms.max_input_bytes;
    }
    let most = if terms.loads_input { offer.fetched_max.min(LOADED_MAX) } else { offer.fetched_max };
    offer.capabilities.input_schemes.contains(&job.input_scheme) && job.input_size <= most
}

/// `None` if the announced price is not an amount.
fn affordable(job: &OpenJob, price: Price) -> Option<bool> {
    if job.any_price {
        return Some(true);
    }
    wire::price_from_bytes(&job.max_price).map(|max| price <= max)
}

/// What a worker can judge of itself. Reputation, latency and preference of
/// region are the leader's to judge.
fn meets(wanted: &Requirements, offer: &Offer<'_>) -> bool {
    let have = offer.capabilities;
    let load_max = wanted.max_worker_load_permille;
    wanted.min_cpu_cores <= have.cpu_cores
        && wanted.min_ram_mb <= have.ram_mb
        && wanted.min_gpu_memory_mb <= have.gpu_memory_mb
        && (load_max == 0 || offer.load_permille <= load_max)
        && wanted.required_frameworks.iter().all(|framework| have.frameworks.contains(framework))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    struct Shop {
        capabilities: Capabilities,
        terms: BTreeMap<String, Terms>,
        expected_ms: BTreeMap<String, u32>,
    }

    fn shop() -> Shop {
        let capabilities = Capabilities {
            cpu_cores: 4,
            ram_mb: 8_192,
            gpu_memory_mb: 16_384,
            frameworks: vec!["torch".to_owned()],
            input_schemes: vec!["https".to_owned()],
            ..Capabilities::default()
        };
        let terms = Terms { price: Price(10), max_input_bytes: 1_000, max_run_secs: 3_600, ..Terms::default() };
        Shop {
            capabilities,
            terms: BTreeMap::from([("sha256".to_owned(), terms)]),
            expected_ms: BTreeMap::from([("sha256".to_owned(), 7)]),
        }
    }

    impl Shop {
        fn offer(&self, room: u32) -> Offer<'_> {
            Offer {
                capabilities: &self.capabilities,
                terms: &self.terms,
                expected_ms: &self.expected_ms,
                fetched_max: 5_000,
                room,
                load_permille: 250,
                turn: 0,
            }
        }

        fn bids_on(&self, job: OpenJob) -> bool {
            !answer(&announce(vec![job]), &self.offer(1)).bids.is_empty()
        }
    }

    fn announce(jobs: Vec<OpenJob>) -> Announcement {
        Announcement { term: 3, seq: 9, window_ms: 200, jobs, ..Announcement::default() }
    }

    fn job(id: u8) -> OpenJob {
        OpenJob {
            id: Bytes::copy_from_slice(&[id; 16]),
            r#type: "sha256".to_owned(),
            attempt: 2,
            any_price: true,
            input_size: 10,
            timeout_secs: 60,
            ..OpenJob::default()
        }
    }

    fn wanting(change: impl FnOnce(&mut Requirements)) -> OpenJob {
        let mut wanted = Requirements::default();
        change(&mut wanted);
        OpenJob { requirements: Some(wanted), ..job(1) }
    }

    #[test]
    fn a_bid_names_the_announcement_the_attempt_and_the_price() {
        let shop = shop();
        let bids = answer(&announce(vec![job(1)]), &shop.offer(2));
        assert_eq!((bids.term, bids.seq, bids.room, bids.load_permille), (3, 9, 2, 250));
        let bid = &bids.bids[0];
        assert_eq!((bid.job.as_ref(), bid.attempt, bid.expected_ms), ([1; 16].as_slice(), 2, 7));
        assert_eq!(wire::price_from_bytes(&bid.price), Some(Price(10)));
    }

    #[test]
    fn who_is_not_asked_or_cannot_win_is_not_waited_for() {
        let shop = shop();
        let worker = crate::domain::PeerId([5; 32]);
        let known = shop.terms.keys().next().unwrap().clone();
        let mut announcement = announce(vec![OpenJob { r#type: known, ..OpenJob::default() }]);
        assert!(is_due(&announcement, worker, &shop.offer(1)));
        assert!(!is_due(&announcement, worker, &shop.offer(0)), "busy with all it can run");
        announcement.asked_permille = 1;
        assert!((0..100).any(|seq| !is_due(&Announcement { seq, ..announcement.clone() }, worker, &shop.offer(1))));
        announcement = announce(vec![OpenJob { r#type: "strange".to_owned(), ..OpenJob::default() }]);
        assert!(!is_due(&announcement, worker, &shop.offer(1)), "another type");
    }

    #[test]
    fn among_many_jobs_small_workers_bid_for_the_first_and_each_for_others_behind() {
        let shop = shop();
        let jobs: Vec<OpenJob> = (1..=200).map(job).collect();
        let chosen = |turn| {
            let bids = answer(&announce(jobs.clone()), &Offer { turn, ..shop.offer(1) }).bids;
            bids.iter().map(|bid| bid.job[0]).collect::<Vec<u8>>()
        };
        let (one, other) = (chosen(0), chosen(100));
        assert_eq!(one, (1..=16).collect::<Vec<u8>>());
        assert_eq!(other[..8], one[..8], "who comes first is served first");
        assert_eq!(other[8..], (109..=116).collect::<Vec<u8>>());
        assert_eq!(chosen(190)[8..], [199, 200, 9, 10, 11, 12, 13, 14], "behind the last comes the first");
    }

    #[test]
    fn without_room_the_answer_is_empty_but_it_is_an_answer() {
        let bids = answer(&announce(vec![job(1)]), &shop().offer(0));
        assert_eq!((bids.term, bids.seq, bids.room, bids.bids.len()), (3, 9, 0, 0));
    }

    #[test]
    fn a_few_bids_above_the_maximum_price_come_last_and_none_for_a_price_that_is_none() {
        let priced =
            |id: u8, max: &[u8]| OpenJob { any_price: false, max_price: Bytes::copy_from_slice(max), ..job(id) };
        let jobs = (2..40).map(|id| priced(id, &[9])).chain([priced(1, &[10]), priced(50, &[])]);
        let bids = answer(&announce(jobs.collect()), &shop().offer(2)).bids;
        assert_eq!(bids.len(), 1 + DEAR_MAX);
        assert_eq!(bids[0].job.as_ref(), [1; 16]);
        assert!(bids.iter().all(|bid| wire::price_from_bytes(&bid.price) == Some(Price(10))), "its price, not theirs");
        assert!(!shop().bids_on(priced(1, &[1; 17])), "not an amount");
    }

    #[test]
    fn no_bid_for_what_it_could_not_run() {
        let shop = shop();
        assert!(shop.bids_on(job(1)));
        assert!(!shop.bids_on(OpenJob { r#type: "video".to_owned(), ..job(1) }));
        assert!(!shop.bids_on(OpenJob { input_size: 1_001, ..job(1) }));
        assert!(!shop.bids_on(OpenJob { timeout_secs: 3_601, ..job(1) }));
        assert!(!shop.bids_on(OpenJob { id: Bytes::from_static(b"short"), ..job(1) }));
    }

    #[test]
    fn a_reference_is_bid_for_if_it_is_fetched_and_not_too_large() {
        let by = |scheme: &str, size| OpenJob { input_scheme: scheme.to_owned(), input_size: size, ..job(1) };
        let mut shop = shop();
        assert!(shop.bids_on(by("https", 5_000)));
        assert!(!shop.bids_on(by("https", 5_001)));
        let bids = |shop: &Shop, size| {
            let offer = Offer { fetched_max: 1 << 40, ..shop.offer(1) };
            !answer(&announce(vec![by("https", size)]), &offer).bids.is_empty()
        };
        assert!(bids(&shop, 1 << 40));
        shop.terms.values_mut().for_each(|terms| terms.loads_input = true);
        assert!(bids(&shop, LOADED_MAX) && !bids(&shop, LOADED_MAX + 1), "it must fit into memory");
        assert!(!shop.bids_on(by("file", 10)));
        assert!(!shop.bids_on(by("http", 10)));
    }

    #[test]
    fn requirements_are_met_or_there_is_no_bid() {
        let shop = shop();
        assert!(shop.bids_on(wanting(|w| {
            w.min_cpu_cores = 4;
            w.min_ram_mb = 8_192;
            w.min_gpu_memory_mb = 16_384;
            w.max_worker_load_permille = 250;
            w.required_frameworks = vec!["torch".to_owned()];
        })));
        assert!(!shop.bids_on(wanting(|w| w.min_cpu_cores = 5)));
        assert!(!shop.bids_on(wanting(|w| w.min_ram_mb = 8_193)));
        assert!(!shop.bids_on(wanting(|w| w.min_gpu_memory_mb = 16_385)));
        assert!(!shop.bids_on(wanting(|w| w.max_worker_load_permille = 249)));
        assert!(!shop.bids_on(wanting(|w| w.required_frameworks = vec!["jax".to_owned()])));
    }

    proptest! {
        #[test]
        fn an_answer_always_fits_into_one_message(count in 0usize..2_000, room in 0u32..2_000, price: u128) {
            let mut shop = shop();
            for terms in shop.terms.values_mut() {
                terms.price = Price(price);
            }
            let jobs = (0..count).map(|_| OpenJob { attempt: u32::MAX, ..job(1) }).collect();
            let bids = answer(&announce(jobs), &shop.offer(room));
            prop_assert!(bids.encoded_len() <= MESSAGE_MAX);
            prop_assert!(bids.bids.len() <= wire::ANNOUNCED_MAX);
            prop_assert_eq!(bids.bids.is_empty(), room == 0 || count == 0);
        }
    }
}
