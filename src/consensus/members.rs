//! Changing who is a member: what operators ask, and what they are warned of.
//!
//! A wish goes through the log; [`super::steward`] makes it true. On the way the
//! leader, who knows which voters are alive, looks at what would be left. What
//! would end the cluster is refused, force or not; what is merely unwise needs
//! force. Asking again for what is so already is answered like the first time,
//! so whoever lost an answer may repeat the question.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::domain::command::{Command, Refusal};
use crate::domain::member::{Act, Denied, Members, Seat, Secret, Token};
use crate::domain::{Digest, NodeId, Timestamp};
use crate::mesh::Lane;
use crate::telemetry::request;

use super::Error;
use super::client::Client;
use super::core::{Core, Route};
use super::deliver::jitter;
use super::frames::{ChangeMembers, Fault};
use super::handover::{self, Reason};
use super::network::Failure;

/// A voter that was silent for longer does not count when a change is weighed, and made.
pub(super) const ALIVE: Duration = Duration::from_secs(2);

/// How long is waited for a node that has to come by itself.
const COMING: Duration = Duration::from_millis(500);

/// What an operator may want of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node that asks to join without an invitation.
    Add {
        node: NodeId,
        address: String,
        voter: bool,
    },
    SetVoter {
        node: NodeId,
        voter: bool,
    },
    Remove {
        node: NodeId,
    },
}

impl Change {
    pub fn node(&self) -> NodeId {
        match self {
            Self::Add { node, .. } | Self::SetVoter { node, .. } | Self::Remove { node } => *node,
        }
    }

    /// Whether a voter would vote no more.
    fn unseats(&self) -> bool {
        matches!(self, Self::SetVoter { voter: false, .. } | Self::Remove { .. })
    }

    fn promotes(&self) -> bool {
        matches!(self, Self::SetVoter { voter: true, .. } | Self::Add { voter: true, .. })
    }

    fn act(&self) -> Act {
        match self.clone() {
            Self::Add { node, address, voter } => Act::Add { node, address, voter },
            Self::SetVoter { node, voter } => Act::SetVoter { node, voter },
            Self::Remove { node } => Act::Remove { node },
        }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// It is so; else the leader is at it.
    pub settled: bool,
    pub warnings: Vec<String>,
}

/// An invitation just made. The token is nowhere else.
#[derive(Clone, Debug)]
pub struct Invited {
    pub id: Digest,
    pub token: Token,
    pub voter: bool,
    pub expires_at: Timestamp,
    pub warnings: Vec<String>,
}

impl Client {
    /// Makes an invitation that admits one node within `ttl`.
    ///
    /// # Errors
    ///
    /// Those of [`Client::submit`]; inside: why the cluster refused.
    pub async fn invite(&self, voter: bool, ttl: Duration, limit: Duration) -> Result<Result<Invited, Denied>, Error> {
        let secret = Secret(rand::random());
        let id = secret.id();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let (_, reply) = self.submit(Command::Member(Act::Invite { id, voter, ttl_ms }), limit).await?;
        if let Err(refusal) = reply {
            return denied(refusal).map(Err);
        }
        let invited = self.read(|state| {
            let members = state.members();
            let expires_at = members.invitation(&id).map(|invitation| invitation.expires_at)?;
            let warnings = if voter { sizes(members.voters().len() + 1) } else { vec![] };
            let addresses = members.seated().map(|(_, known)| known.address.to_string());
            Some(Invited { id, token: Token::new(secret, addresses), voter, expires_at, warnings })
        });
        Ok(invited.ok_or(Denied::UnknownInvitation))
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    ///
    /// As [`Client::invite`].
    pub async fn revoke(&self, id: Digest, limit: Duration) -> Result<Result<(), Denied>, Error> {
        match self.submit(Command::Member(Act::Revoke { id }), limit).await? {
            (_, Ok(_)) => Ok(Ok(())),
            (_, Err(refusal)) => denied(refusal).map(Err),
        }
    }

    /// Changes one member, wherever the leader is, and waits within `limit` until it is so.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if the answer was lost, and as [`Client::submit`]; inside: why the leader refused.
    pub async fn change_members(
        &self,
        change: Change,
        force: bool,
        limit: Duration,
    ) -> Result<Result<Changed, Denied>, Error> {
        let deadline = clock::instant() + limit;
        let mut sent = false;
        loop {
            let asked = match self.core.route_by(deadline).await {
                Ok((Route::Here { .. }, left)) => decide(self, &change, force, left).await,
                Ok((Route::There(leader), left)) => self.ask(leader, &change, force, left).await,
                Ok((Route::Nowhere, _)) => continue,
                Err(_) if sent => Err(Error::Unknown("the answer of the leader was lost".into())),
                Err(error) => return Err(error),
            };
            match asked {
                Err(Error::NoLeader) => {}
                // To ask again changes nothing more.
                Err(Error::Unknown(_)) if clock::instant() < deadline => sent = true,
                decided => return decided,
            }
            sleep(jitter()).await;
        }
    }

    async fn ask(
        &self,
        leader: NodeId,
        change: &Change,
        force: bool,
        left: Duration,
    ) -> Result<Result<Changed, Denied>, Error> {
        let limit_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX) / 10 * 8;
        let request_id = request::current().map(|id| id.to_string());
        let frame = ChangeMembers { change: change.clone(), force, limit_ms, request_id };
        match self.core.link.send(leader, Lane::Forward, &frame, left).await {
            Ok(decided) => decided.map_err(Fault::into),
            Err(Failure::NotSent(_)) => Err(Error::NoLeader),
            Err(Failure::Timeout) => Err(Error::Unknown(format!("no answer from the leader {leader} in time"))),
            Err(Failure::Lost(why)) => Err(Error::Unknown(why)),
        }
    }
}

/// A refusal of the membership's books; another is none that these commands get.
fn denied(refusal: Refusal) -> Result<Denied, Error> {
    match refusal {
        Refusal::Member(denied) => Ok(denied),
        other => Err(Error::Setup(other.to_string())),
    }
}

/// On the leader: weighs a change, writes it down, and waits until it is so.
pub(super) async fn decide(
    client: &Client,
    change: &Change,
    force: bool,
    limit: Duration,
) -> Result<Result<Changed, Denied>, Error> {
    let core = &client.core;
    let deadline = clock::instant() + limit;
    let super::Leadership::Leading { term } = *core.leadership.borrow() else { return Err(Error::NoLeader) };
    let act = change.act();
    hear_all(core, deadline.min(clock::instant() + COMING)).await;
    let weighed = client.read(|state| {
        let news = state.members().would(&act, state.now())?;
        if news { weigh(core, state.members(), change, force) } else { Ok(vec![]) }
    });
    let warnings = match weighed {
        Ok(warnings) => warnings,
        Err(denied) => return Ok(Err(denied)),
    };
    let node = change.node();
    if change.unseats() && node == core.node && client.read(|state| state.members().voters().contains(&node)) {
        // Who leads from outside can not answer; whoever leads next does.
        handover::hand_over(core, None, Reason::Asked, limit / 2).await.map_err(|_| Error::NoLeader)?;
        return Err(Error::NoLeader);
    }
    let committed = client.submit_as_leader(term, vec![Command::Member(act)], limit).await?;
    if let Some(Err(refusal)) = committed.replies.into_iter().next() {
        return denied(refusal).map(Err);
    }
    let coming = matches!(change, Change::Add { .. });
    let until = if coming { deadline.min(clock::instant() + COMING) } else { deadline };
    let settled = settle(client, node, term, until).await?;
    Ok(Ok(Changed { settled, warnings }))
}

/// Waits until every voter has answered this leader, or could have.
async fn hear_all(core: &Core, deadline: std::time::Instant) {
    loop {
        let metrics = core.metrics();
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.all(|voter| core.has_answered(&metrics, voter, ALIVE)) || clock::instant() >= deadline {
            return;
        }
        sleep(jitter()).await;
    }
}

/// Waits until nothing is left to do about `node`.
async fn settle(client: &Client, node: NodeId, term: u64, deadline: std::time::Instant) -> Result<bool, Error> {
    let mut applied = client.applied();
    loop {
        if client.read(|state| state.members().is_settled(node)) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return Ok(false);
        }
        if client.core.route() != (Route::Here { term }) {
            return Err(Error::NoLeader);
        }
        let _ = timeout(left.min(COMING), applied.changed()).await;
    }
}

/// Says what speaks against a change; what does not forbid it is returned.
fn weigh(core: &Core, members: &Members, change: &Change, force: bool) -> Result<Vec<String>, Denied> {
    let node = change.node();
    let mut voters = members.voters();
    // As the steward sees it, or it would be promised what is never done.
    let metrics = core.metrics();
    let alive = |voter: &NodeId| core.has_answered(&metrics, *voter, ALIVE);
    // Who votes already may go on to, whether it answers or not.
    if change.promotes() && members.known(node).is_some_and(|known| known.seat == Some(Seat::Learner)) && !alive(&node)
    {
        return Err(Denied::Unreachable(node));
    }
    if change.promotes() {
        voters.insert(node);
        return Ok(sizes(voters.len()));
    }
    if !change.unseats() || !voters.remove(&node) {
        return Ok(vec![]);
    }
    let live = voters.iter().filter(|voter| alive(voter)).count();
    let needed = voters.len() / 2 + 1;
    if live < needed {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let (live, voters, needed) = (count(live), count(voters.len()), count(needed));
        return Err(Denied::QuorumLost { node, live, voters, needed });
    }
    let dead: BTreeSet<&NodeId> = voters.iter().filter(|voter| !alive(voter)).collect();
    if let Some(first) = dead.first().filter(|_| alive(&node) && !force) {
        return Err(Denied::Risky(format!(
            "{node} is alive and {} of the other voters are not, {first} among them: remove those first, or the \
             cluster could lose only {} more",
            dead.len(),
            live - needed
        )));
    }
    Ok(sizes(voters.len()))
}

/// What is to be said of so many voters.
fn sizes(voters: usize) -> Vec<String> {
    match voters {
        1 => vec!["with one voter the cluster stops when that one does".to_owned()],
        2 => vec!["with two voters the cluster stops when either does".to_owned()],
        even if even % 2 == 0 => {
            vec![format!("{even} voters survive the loss of no more than {} do: an odd number is better", even - 1)]
        }
        _ => vec![],
    }
}
