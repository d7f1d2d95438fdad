//! What was offered and what was bid, as far as this node knows.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Context, text};
use crate::domain::lost::{LostBid, LostRound, Why};
use crate::domain::{Job, Timestamp};

/// What a job offers.
#[derive(Serialize, ToSchema)]
#[schema(as = JobOffer)]
pub struct PriceBody {
    /// The most that is paid now; null: any price.
    offered: Option<String>,
    max_price: Option<String>,
    /// When `max_price` is offered, if it rises to it.
    #[schema(format = DateTime)]
    reaches_max_at: Option<String>,
    /// At this price a worker would have taken the job in the last round; null if none asked for more than was offered.
    would_do: Option<String>,
    /// When that is offered; null if it never is, or is not known.
    #[schema(format = DateTime)]
    would_do_at: Option<String>,
}

/// A round in which the job stayed open.
#[derive(Serialize, ToSchema)]
#[schema(as = LostRound)]
pub struct RoundBody {
    #[schema(format = DateTime)]
    at: String,
    attempt: u32,
    /// What the job offered at most; null: any price.
    offered: Option<String>,
    /// Workers that answered.
    answers: usize,
    /// Bids for this job; the cheapest are shown.
    bids: usize,
    lost: Vec<LostBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = LostBid)]
struct LostBody {
    worker_id: String,
    price: String,
    /// 0: the worker did not say.
    expected_ms: u32,
    #[schema(pattern = "^(too_dear|unfit|no_room)$")]
    why: &'static str,
    /// For people.
    detail: String,
}

/// The last round in which this attempt stayed open, if this node leads and held it.
pub fn heard(context: &Context, job: &Job) -> Option<LostRound> {
    let round = context.roster.lost_bids.get(job.id).filter(|_| leads(context))?;
    (round.attempt == job.attempt.saturating_add(1)).then_some(round)
}

/// Who knows the bids, if it is not this node.
pub fn ask(context: &Context) -> Option<String> {
    let leader = context.client.status().leader.filter(|_| !leads(context))?;
    Some(leader.to_string())
}

fn leads(context: &Context) -> bool {
    let status = context.client.status();
    status.leader == Some(status.node)
}

/// Says so if the price is all that stands in the way.
pub fn too_low(job: &Job, round: &LostRound, now: Timestamp) -> Option<(&'static str, String)> {
    let price = round.enough().filter(|_| round.cheapest.iter().all(|bid| bid.why != Why::NoRoom))?;
    let offered = job.ceiling(now).filter(|offered| *offered < price)?;
    let when = match (job.ceiling_reaches(price), job.spec.max_price) {
        (Some(at), _) => format!("from {} it does", text::time(at)),
        (None, Some(most)) => format!("it never will, its max_price is {most}"),
        (None, None) => return None,
    };
    let detail = format!("the job offers {offered}; it would be placed at a price of {price} or more; {when}");
    Some(("price_too_low", detail))
}

impl PriceBody {
    pub fn of(job: &Job, round: Option<&LostRound>, now: Timestamp) -> Self {
        let most = job.spec.max_price;
        let enough = round.and_then(LostRound::enough).filter(|price| job.ceiling(now).is_some_and(|c| c < *price));
        let rises = job.spec.price_escalation.is_some();
        Self {
            offered: job.ceiling(now).map(|price| price.to_string()),
            max_price: most.map(|price| price.to_string()),
            reaches_max_at: most.filter(|_| rises).and_then(|most| job.ceiling_reaches(most)).map(text::time),
            would_do: enough.map(|price| price.to_string()),
            would_do_at: enough.and_then(|price| job.ceiling_reaches(price)).map(text::time),
        }
    }
}

impl RoundBody {
    pub fn of(job: &Job, round: &LostRound) -> Self {
        Self {
            at: text::time(round.at),
            attempt: round.attempt,
            offered: round.ceiling.map(|price| price.to_string()),
            answers: round.answers,
            bids: round.bids,
            lost: round.cheapest.iter().map(|bid| LostBody::of(job, bid)).collect(),
        }
    }
}

impl LostBody {
    fn of(job: &Job, bid: &LostBid) -> Self {
        let (why, detail) = match &bid.why {
            Why::TooDear => ("too_dear", too_dear(job, bid)),
            Why::Unfit(lack) => {
                let detail = format!("{}: wanted {}, offered {}", lack.requirement, lack.wanted, lack.offered);
                ("unfit", detail)
            }
            Why::NoRoom => ("no_room", "all this worker could take went to jobs before this one".to_owned()),
        };
        let (worker_id, price) = (bid.worker.to_string(), bid.price.to_string());
        Self { worker_id, price, expected_ms: bid.expected_ms, why, detail }
    }
}

fn too_dear(job: &Job, bid: &LostBid) -> String {
    match job.ceiling_reaches(bid.price) {
        Some(at) => format!("the job did not offer that much; it does from {}", text::time(at)),
        None => "the job never offers that much".to_owned(),
    }
}
