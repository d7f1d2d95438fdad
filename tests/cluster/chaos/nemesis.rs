//! Does to a cluster what a [`Schedule`](super::schedule::Schedule) says, and undoes it.

use std::time::Duration;

use ciro::clock;
use reqwest::Method;

use super::schedule::{Event, Fault, Round, Target};
use crate::cluster::Cluster;
use crate::links::Party;
use crate::{secs, until};

/// Nodes that the clients ask, and that never go for good.
pub const FOUNDERS: usize = 3;

/// The one that comes and goes: another one each time.
const NEWCOMER: usize = FOUNDERS;

/// What a sync takes longer on a slow disk.
const SLOW: Duration = Duration::from_millis(150);

const HOUR_MS: i64 = 3_600_000;

/// Begin or end of a fault.
struct Act {
    at: Duration,
    event: usize,
    ends: bool,
}

/// Who was hit by which event of the round.
type Victims = Vec<Option<usize>>;

pub struct Nemesis {
    begun: std::time::Instant,
    /// What was done, in words.
    pub diary: Vec<String>,
}

impl Nemesis {
    pub fn new() -> Self {
        Self { begun: clock::instant(), diary: Vec::new() }
    }

    fn note(&mut self, what: &str) {
        let line = format!("{:>8.3} s  {what}", self.begun.elapsed().as_secs_f64());
        println!("{line}");
        self.diary.push(line);
    }

    /// One round: its faults, their end, and the calm after it.
    pub async fn round(&mut self, cluster: &mut Cluster, round: &Round) {
        let mut acts: Vec<Act> = Vec::new();
        for (event, it) in round.events.iter().enumerate() {
            acts.push(Act { at: it.after, event, ends: false });
            acts.push(Act { at: it.after + it.length, event, ends: true });
        }
        acts.sort_by_key(|act| (act.at, act.ends));
        let start = clock::instant();
        let mut victims: Victims = vec![None; round.events.len()];
        for act in acts {
            tokio::time::sleep(act.at.saturating_sub(start.elapsed())).await;
            let event = &round.events[act.event];
            if act.ends {
                if let Some(victim) = victims[act.event] {
                    self.end(cluster, event.fault, victim).await;
                }
            } else {
                let victim = victim(cluster, event, &victims).await;
                victims[act.event] = Some(victim);
                self.begin(cluster, event, victim).await;
            }
        }
        tokio::time::sleep(round.calm).await;
    }

    async fn begin(&mut self, cluster: &mut Cluster, event: &Event, victim: usize) {
        let whom = if event.fault == Fault::KillWorker { "worker" } else { "node" };
        self.note(&format!("{:?} {whom} {victim} ({:?}) for {:?}", event.fault, event.target, event.length));
        let node = Party::Node(victim);
        let others = others(victim).map(Party::Node);
        match event.fault {
            Fault::Kill => cluster.kill(victim),
            Fault::Pause => cluster.pause(victim),
            Fault::Partition => others.iter().for_each(|other| cluster.cut(node, *other)),
            Fault::HalfPartition => cluster.cut(node, others[0]),
            Fault::Deaf => others.iter().for_each(|other| cluster.cut_one_way(*other, node)),
            Fault::Mute => others.iter().for_each(|other| cluster.cut_one_way(node, *other)),
            Fault::SlowDisk => cluster.nodes[victim].machine.slow_disk(SLOW),
            Fault::FullDisk => cluster.nodes[victim].machine.free_space(Some(0)),
            Fault::ClockAhead => cluster.nodes[victim].machine.wall_clock(HOUR_MS),
            Fault::ClockBehind => cluster.nodes[victim].machine.wall_clock(-HOUR_MS),
            Fault::KillWorker => cluster.kill_worker(victim),
            Fault::RollingRestart => self.roll(cluster).await,
            Fault::Churn => self.admit(cluster).await,
        }
    }

    async fn end(&mut self, cluster: &mut Cluster, fault: Fault, victim: usize) {
        self.note(&format!("{fault:?} {victim} ends"));
        let node = Party::Node(victim);
        match fault {
            Fault::Kill => cluster.launch(victim),
            Fault::Pause => cluster.resume(victim),
            Fault::Partition | Fault::HalfPartition | Fault::Deaf | Fault::Mute => {
                others(victim).into_iter().for_each(|other| cluster.mend_link(node, Party::Node(other)));
            }
            Fault::SlowDisk => cluster.nodes[victim].machine.slow_disk(Duration::ZERO),
            Fault::FullDisk => cluster.nodes[victim].machine.free_space(None),
            Fault::ClockAhead | Fault::ClockBehind => cluster.nodes[victim].machine.wall_clock(0),
            Fault::KillWorker => cluster.launch_worker(victim),
            Fault::RollingRestart => {}
            Fault::Churn => self.dismiss(cluster).await,
        }
    }

    /// The newcomer gets an invitation from whoever gives one, and joins when it can.
    async fn admit(&mut self, cluster: &mut Cluster) {
        let token = until(secs(20), "a node invites", async || {
            for node in founders(cluster) {
                let request = cluster.client.request(node, Method::POST, "/cluster/invitations").timeout(secs(2));
                let Ok(answer) = request.send().await else { continue };
                let body: serde_json::Value = answer.json().await.unwrap_or_default();
                if let Some(token) = body["token"].as_str() {
                    return Some(token.to_owned());
                }
            }
            None
        })
        .await;
        cluster.join(NEWCOMER, &token);
    }

    /// The newcomer is removed, wherever it is with joining, and its place is for another one.
    async fn dismiss(&mut self, cluster: &mut Cluster) {
        let was = removed(cluster).await;
        if cluster.forgive(NEWCOMER) {
            // Removed while it was joining, it asked again, and was refused.
            cluster.nodes[NEWCOMER].absent = true;
        } else {
            cluster.retire(NEWCOMER).await;
        }
        // It may have been admitted at the last moment.
        removed(cluster).await;
        cluster.replace_node(NEWCOMER);
        self.note(&format!("the newcomer was {was}"));
    }

    async fn roll(&mut self, cluster: &mut Cluster) {
        for node in 0..FOUNDERS {
            cluster.stop(node).await;
            cluster.restart(node).await;
            self.note(&format!("node {node} is back"));
        }
    }
}

/// Waits until no node counts on the newcomer, and says what it was before.
async fn removed(cluster: &Cluster) -> &'static str {
    let id = cluster.nodes[NEWCOMER].id.clone();
    let mut was = "not heard of";
    until(secs(60), "the newcomer is no member any more", async || {
        for node in founders(cluster) {
            let path = "/cluster?consistency=linearizable";
            let Some(view) = cluster.client.get_within(node, path, secs(2)).await else { continue };
            if view.status != 200 {
                continue;
            }
            let names = |field: &str| view.body[field].to_string().contains(&id);
            if !names("members") && !names("change_in_flight") {
                return Some(());
            }
            was = if names("voters") { "a voter" } else { "on its way" };
            let path = format!("/cluster/members/{id}?force=true");
            let request = cluster.client.request(node, Method::DELETE, &path).timeout(secs(2));
            if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
        }
        None
    })
    .await;
    was
}

/// Those that run.
fn founders(cluster: &Cluster) -> Vec<usize> {
    cluster.running().into_iter().filter(|node| *node < FOUNDERS).collect()
}

fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

/// Who is meant: one that no other event of the round has.
async fn victim(cluster: &Cluster, event: &Event, victims: &[Option<usize>]) -> usize {
    let wanted = match event.target {
        Target::Node(node) => node,
        Target::Leader => leader(cluster).await,
        Target::Follower => (leader(cluster).await + 1) % 3,
    };
    match event.fault {
        Fault::KillWorker => return wanted % cluster.workers.len(),
        Fault::Churn => return NEWCOMER,
        _ => {}
    }
    let free = (0..3).map(|turn| (wanted + turn) % 3).find(|node| !victims.contains(&Some(*node)));
    free.expect("a round has fewer faults than there are nodes")
}

/// Who leads, as far as anybody says.
async fn leader(cluster: &Cluster) -> usize {
    for node in cluster.running() {
        let Some(answer) = cluster.client.get_within(node, "/status", Duration::from_millis(500)).await else {
            continue;
        };
        let id = answer.body["leader_id"].as_str().unwrap_or_default();
        if let Some(leader) = cluster.nodes.iter().position(|node| node.id == id) {
            return leader;
        }
    }
    0
}
