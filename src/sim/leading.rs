//! The duties of whoever believes to lead, in virtual time.
//!
//! What they decide is [`crate::leader::sim`], which is the duties' own code. Each
//! turns on its period, waits for the answer to what it submitted, and may die
//! between any two lines. A deposed leader's duties go on until it finds out.

use std::collections::{BTreeMap, BTreeSet};

use super::broker::{PARTITION, Sent};
use super::contract::View;
use super::faults::Defect;
use super::log::Outcome;
use super::world::{World, note};
use crate::domain::chain::Act;
use crate::domain::command::{Done, Refusal};
use crate::domain::kafka::{Ingest, Item, Taken};
use crate::domain::{Command, WorkerId};
use crate::leader::sim::settle::{self, Settler, Turn};
use crate::leader::sim::{Held, Market, Order, Publisher, overdue};
use crate::wire::proto::mesh::v1::{self as proto, coordinator_request::Body};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Duty {
    Market,
    Leases,
    Verdicts,
    Reconcile,
    Dispatch,
    Deadlines,
    Hours,
    Publish,
    Cursor,
    Ingest,
    Settle,
}

/// With their periods in milliseconds.
const DUTIES: [(Duty, u64); 11] = [
    (Duty::Market, 120),
    (Duty::Leases, 400),
    (Duty::Verdicts, 400),
    (Duty::Reconcile, 400),
    (Duty::Dispatch, 150),
    (Duty::Deadlines, 400),
    (Duty::Hours, 10_000),
    (Duty::Publish, 200),
    (Duty::Cursor, 150),
    (Duty::Ingest, 300),
    (Duty::Settle, 300),
];

/// Repeating a stop sooner than this is noise.
const STOP_AGAIN: u64 = 500;

pub(super) struct Duties {
    pub market: Market,
    held: Held,
    publisher: Option<Publisher>,
    settler: Settler,
    /// Those that wait for an answer.
    busy: BTreeSet<Duty>,
    stopped: BTreeMap<WorkerId, u64>,
}

/// Whose step it is.
#[derive(Clone, Copy)]
struct Lead {
    node: usize,
    life: u32,
    term: u64,
}

impl World {
    pub(super) fn start_term(&mut self, node: usize, life: u32, term: u64) {
        let current = self.nodes[node].up && self.nodes[node].life == life;
        if !current || self.log.leader != Some(node) || self.log.term != term {
            return;
        }
        note!(self, "node {node} leads in term {term}");
        let mut market = Market::new(term);
        market.careless = self.defect == Some(Defect::Overcommitted);
        let it = &mut self.nodes[node];
        it.leads = Some(term);
        it.hint = Some(node);
        it.duties = Some(Box::new(Duties {
            market,
            held: Held::default(),
            publisher: None,
            settler: Settler::default(),
            busy: BTreeSet::new(),
            stopped: BTreeMap::new(),
        }));
        for (duty, period) in DUTIES {
            let first = self.between(1, period);
            self.after(first, "duty", move |world| world.duty(Lead { node, life, term }, duty, period));
        }
    }

    fn duty(&mut self, lead: Lead, duty: Duty, period: u64) {
        if !self.leads(lead.node, lead.life, lead.term) {
            return;
        }
        let pause = self.nodes[lead.node].paused_until.saturating_sub(self.now);
        if pause == 0 && !self.duties(lead).busy.contains(&duty) {
            self.step(lead, duty);
        }
        let next = pause + self.between(period / 2, period * 3 / 2);
        self.after(next, "duty", move |world| world.duty(lead, duty, period));
    }

    fn step(&mut self, lead: Lead, duty: Duty) {
        match duty {
            Duty::Market => self.market(lead),
            Duty::Leases => self.leases(lead),
            Duty::Verdicts => self.verdicts(lead),
            Duty::Reconcile => self.reconcile(lead),
            Duty::Dispatch => self.dispatch(lead),
            Duty::Deadlines => {
                let commands = self.look(lead, |_, sight| overdue(sight.state, sight.at));
                self.record(lead, duty, commands, |_, _| {});
            }
            Duty::Hours => self.hours(lead),
            Duty::Publish => self.publish(lead),
            Duty::Cursor => self.cursor(lead),
            Duty::Ingest => self.ingest(lead),
            Duty::Settle => self.settle(lead),
        }
    }

    fn duties(&mut self, lead: Lead) -> &mut Duties {
        self.nodes[lead.node].duties.as_mut().expect("it leads")
    }

    /// Looks at the state with the duties at hand.
    fn look<T>(&mut self, lead: Lead, look: impl FnOnce(&mut Duties, &crate::leader::sim::Sight<'_>) -> T) -> T {
        let mut duties = self.nodes[lead.node].duties.take().expect("it leads");
        let found = look(&mut duties, &self.sight(lead.node));
        self.nodes[lead.node].duties = Some(duties);
        found
    }

    /// Commits in this term or not at all; the duty rests until it knows.
    fn record(
        &mut self,
        lead: Lead,
        duty: Duty,
        commands: Vec<Command>,
        then: impl FnOnce(&mut Self, Outcome) + 'static,
    ) {
        if commands.is_empty() || self.dies_here(lead.node) {
            return;
        }
        note!(self, "node {} term {} {duty:?}: {}", lead.node, lead.term, shown(&commands));
        self.duties(lead).busy.insert(duty);
        self.submit(lead.node, Some(lead.term), commands, move |world, outcome| {
            if world.leads(lead.node, lead.life, lead.term) {
                world.duties(lead).busy.remove(&duty);
                then(world, outcome);
            }
        });
        self.dies_here(lead.node);
    }

    // ------------------------------------------------------------ market and runs

    fn market(&mut self, lead: Lead) {
        let now = self.instant();
        if !self.duties(lead).market.is_open() {
            let message = self.look(lead, |duties, sight| duties.market.open(sight));
            if let Some(message) = message {
                note!(self, "node {} term {} announces {} jobs", lead.node, lead.term, message.jobs.len());
                self.announce(lead.node, lead.life, &message);
            }
            return;
        }
        let Some((flight, commands)) = self.duties(lead).market.close(now) else { return };
        self.record(lead, Duty::Market, commands, move |world, outcome| {
            if let Outcome::Done(replies) = &outcome {
                world.checks.awards(replies, world.log.leader == Some(lead.node));
            }
            world.duties(lead).market.land(flight);
        });
    }

    /// A worker's answer to an announcement, at a node that may lead.
    pub(super) fn hear_bids(&mut self, node: usize, worker: WorkerId, bids: proto::Bids) {
        let paused = self.is_paused(node);
        if let Some(duties) = self.nodes[node].duties.as_mut().filter(|_| !paused) {
            duties.market.hear(worker, bids);
        }
    }

    fn leases(&mut self, lead: Lead) {
        let mut commands = self.look(lead, |duties, sight| duties.held.leases(sight));
        if self.defect == Some(Defect::LeasesForgotten) {
            commands.retain(|command| !matches!(command, Command::Expire { .. }));
        }
        self.record(lead, Duty::Leases, commands, |_, _| {});
        if !self.leads(lead.node, lead.life, lead.term) {
            return;
        }
        let orders = self.look(lead, |duties, sight| duties.held.renewals(sight));
        for Order { worker, body, keys, .. } in orders {
            self.request(worker, body, move |world, answer| {
                if answer.is_none() && world.leads(lead.node, lead.life, lead.term) {
                    world.duties(lead).held.untold(keys);
                }
            });
        }
    }

    fn verdicts(&mut self, lead: Lead) {
        let (commands, asked) = self.look(lead, |duties, sight| duties.held.verdicts(sight));
        let at = self.instant();
        for worker in asked {
            self.request(worker, Body::Renew(proto::Renew::default()), move |world, answer| {
                if !world.leads(lead.node, lead.life, lead.term) {
                    return;
                }
                match answer {
                    Some(_) => world.nodes[lead.node].roster.answered(worker, at),
                    None => world.duties(lead).held.in_vain(worker),
                }
            });
        }
        self.record(lead, Duty::Verdicts, commands, |_, _| {});
    }

    /// Orders to stop go out only from a leader that a majority still follows.
    fn reconcile(&mut self, lead: Lead) {
        if self.log.leader != Some(lead.node) || self.nodes[lead.node].cut {
            return;
        }
        let now = self.now;
        let stops = self.look(lead, |_, sight| Held::stops(sight));
        for (worker, stop) in stops {
            let again = self.duties(lead).stopped.get(&worker).is_some_and(|at| now < at + STOP_AGAIN);
            if !again {
                self.duties(lead).stopped.insert(worker, now);
                self.request(worker, Body::Stop(stop), |_, _| {});
            }
        }
    }

    fn dispatch(&mut self, lead: Lead) {
        let orders = self.look(lead, |duties, sight| duties.held.assignments(sight));
        for order in orders {
            if self.dies_here(lead.node) {
                return;
            }
            self.request(order.worker, order.body.clone(), move |world, answer| {
                if !world.leads(lead.node, lead.life, lead.term) {
                    return;
                }
                let commands = match &answer {
                    Some(items) => Held::outcomes(&world.nodes[lead.node].state, &order, items),
                    None => vec![],
                };
                let now = world.instant();
                world.duties(lead).held.landed(order, answer.is_some(), now);
                if !commands.is_empty() {
                    note!(world, "node {} term {} answers: {}", lead.node, lead.term, shown(&commands));
                    world.submit(lead.node, Some(lead.term), commands, |_, _| {});
                }
            });
        }
    }

    /// Lets the log's clock pass.
    fn hours(&mut self, lead: Lead) {
        if self.look(lead, |_, sight| sight.state.time_would_tell(sight.at)) {
            self.submit(lead.node, Some(lead.term), vec![], |_, _| {});
        }
    }

    // ------------------------------------------------------------ Kafka

    fn publish(&mut self, lead: Lead) {
        let begun = self.look(lead, |duties, sight| {
            if duties.publisher.is_none() {
                match Publisher::begin(sight.state) {
                    Ok(publisher) => duties.publisher = Some(publisher),
                    Err(command) => return Err(command),
                }
            }
            Ok(duties.publisher.as_mut().and_then(|publisher| publisher.next(sight.state)))
        });
        let parcel = match begun {
            Err(command) => return self.record(lead, Duty::Publish, vec![*command], |_, _| {}),
            Ok(None) => return,
            Ok(Some(parcel)) => parcel,
        };
        if self.dies_here(lead.node) {
            return;
        }
        if self.defect == Some(Defect::CursorEarly) {
            self.duties(lead).publisher.as_mut().expect("it has begun").acknowledged(&parcel);
        }
        note!(
            self,
            "node {} term {} publishes {} records through {}",
            lead.node,
            lead.term,
            parcel.messages.len(),
            parcel.through
        );
        self.duties(lead).busy.insert(Duty::Publish);
        let delay = self.delay();
        self.after(delay, "publish", move |world| {
            let sent = world.take_in(&parcel);
            let delay = world.delay();
            world.after(delay, "published", move |world| {
                if !world.leads(lead.node, lead.life, lead.term) {
                    return;
                }
                let duties = world.duties(lead);
                duties.busy.remove(&Duty::Publish);
                if sent == Sent::Acknowledged {
                    duties.publisher.as_mut().expect("it has begun").acknowledged(&parcel);
                }
            });
        });
        self.dies_here(lead.node);
    }

    fn cursor(&mut self, lead: Lead) {
        let command = self.look(lead, |duties, sight| duties.publisher.as_mut()?.report(sight.state, sight.now));
        self.record(lead, Duty::Cursor, command.into_iter().collect(), |_, _| {});
    }

    fn ingest(&mut self, lead: Lead) {
        let next = self.nodes[lead.node].state.kafka().next_offset(&PARTITION()).unwrap_or(0);
        let most = self.between(1, 3);
        let items: Vec<Item> = self
            .clients
            .offered(next, self.now)
            .take(usize::try_from(most).unwrap())
            .map(|(offset, submit)| Item { offset, taken: Taken::Job(Box::new(submit.clone())) })
            .collect();
        let Some(last) = items.last().map(|item| item.offset) else { return };
        let ingest = Ingest { cluster: "one".to_owned(), partition: PARTITION(), from: next, items, next: last + 1 };
        self.record(lead, Duty::Ingest, vec![Command::Ingest(Box::new(ingest))], |_, _| {});
    }

    // ------------------------------------------------------------ the chain

    fn settle(&mut self, lead: Lead) {
        let (now, down) = (self.instant(), self.chance(self.faults.sink / 2));
        let mut duties = self.nodes[lead.node].duties.take().expect("it leads");
        let mut view = View { contract: &self.contract, down };
        let turn = duties.settler.turn(&self.nodes[lead.node].state, &mut view, now);
        self.nodes[lead.node].duties = Some(duties);
        match turn {
            None | Some(Turn::Rest) => {}
            Some(Turn::Tell(acts)) => self.tell(lead, acts),
            Some(Turn::Send(transaction)) => self.send(lead, *transaction),
        }
    }

    fn tell(&mut self, lead: Lead, acts: Vec<Act>) {
        let claims = matches!(acts[..], [Act::Claim { least: 1.., .. }]);
        let commands = acts.into_iter().map(Command::Chain).collect();
        self.record(lead, Duty::Settle, commands, move |world, outcome| {
            let Outcome::Done(replies) = outcome else { return };
            let settler = &mut world.duties(lead).settler;
            match replies.first() {
                Some(Ok(Done::Epoch(_))) if claims => settler.claimed(true),
                Some(Err(Refusal::StaleEpoch { .. })) => settler.claimed(false),
                _ => {}
            }
        });
    }

    fn send(&mut self, lead: Lead, transaction: crate::domain::chain::Transaction) {
        if self.dies_here(lead.node) {
            return;
        }
        note!(
            self,
            "node {} term {} sends nonce {} epoch {}",
            lead.node,
            lead.term,
            transaction.nonce,
            transaction.epoch
        );
        self.duties(lead).busy.insert(Duty::Settle);
        let delay = self.delay();
        self.after(delay, "send", move |world| {
            let (nonce, hash) = (transaction.nonce, transaction.hash);
            if world.defect == Some(Defect::PaidTwice) {
                world.contract.send_again(&transaction);
            }
            let heard = !world.chance(world.faults.sink);
            let arrives = heard || world.chance(500);
            let sent = if arrives { world.contract.send(transaction) } else { settle::Sent::NoAnswer };
            let sent = if heard { sent } else { settle::Sent::NoAnswer };
            let delay = world.delay();
            world.after(delay, "sent", move |world| {
                if world.leads(lead.node, lead.life, lead.term) {
                    let now = world.instant();
                    let duties = world.duties(lead);
                    duties.busy.remove(&Duty::Settle);
                    duties.settler.sent(nonce, hash, sent, now);
                }
            });
        });
        self.dies_here(lead.node);
    }
}

/// For who reads a trace.
fn shown(commands: &[Command]) -> String {
    let brief = |command: &Command| format!("{command:?}").chars().take(180).collect::<String>();
    commands.iter().map(brief).collect::<Vec<_>>().join("; ")
}
