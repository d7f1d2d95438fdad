//! What clients notice when three nodes become five, and three again.
//!
//! Clients write all the time, by the nodes of the network. In each turn two nodes
//! are started with invitations; when both vote, leadership is handed to one of
//! them, so that the removal of a leader is in it, and both are removed again.
//! Their processes run until nobody counts on them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::MembersArgs;
use super::cluster::Cluster;
use super::devnet::Devnet;
use super::histogram::Histogram;
use super::nodes::{Node, Place, Running};
use super::report::Report;
use super::writers::Writers;
use crate::clock;
use crate::tasks::Tasks;

const NEWCOMERS: usize = 2;

/// For members to be as they shall.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(50);

/// Watched after a change.
const AFTER: Duration = Duration::from_millis(500);

pub(super) async fn run(args: &MembersArgs, cluster: &Cluster, tasks: &Tasks) -> anyhow::Result<Report> {
    let devnet = Devnet::new(&args.devnet);
    let place = Place::new("members")?;
    let writers = Writers::start(cluster, args.clients as usize, tasks);
    let turns = turns(args, cluster, &devnet, &place, &writers).await;
    let noticed = writers.stop().await;
    let seen = turns?;
    let parameters = json!({ "turns": args.turns, "newcomers": NEWCOMERS, "clients": args.clients });
    let report = Report::new("members", parameters)
        .count("writes_failed", noticed.failed)
        .latency("write_gap", seen.gaps.summary())
        .latency("grown", seen.grown.summary())
        .latency("shrunk", seen.shrunk.summary())
        .latency("write", noticed.latency)
        .count("writes", noticed.accepted)
        .count("tries_repeated", noticed.repeated);
    Ok(noticed.notes(report))
}

/// Of each turn.
struct Seen {
    /// While the cluster grew, and while it shrank.
    gaps: Histogram,
    grown: Histogram,
    shrunk: Histogram,
}

async fn turns(
    args: &MembersArgs,
    cluster: &Cluster,
    devnet: &Devnet,
    place: &Place,
    writers: &Writers,
) -> anyhow::Result<Seen> {
    let mut seen = Seen { gaps: Histogram::new(), grown: Histogram::new(), shrunk: Histogram::new() };
    for turn in 0..args.turns as usize {
        devnet.settled(cluster, PATIENCE).await?;
        writers.flowing().await?;
        let founders = voters(cluster).await?.context("the members are being changed by somebody else")?;
        let begun = clock::instant();
        let (nodes, running) = grow(args, cluster, devnet, place, turn).await?;
        until_voters(cluster, founders + NEWCOMERS, &nodes).await?;
        seen.grown.add(begun.elapsed());
        tokio::time::sleep(AFTER).await;
        seen.gaps.add(writers.gap_since(begun));

        let begun = clock::instant();
        shrink(cluster, &nodes).await?;
        until_voters(cluster, founders, &nodes).await?;
        seen.shrunk.add(begun.elapsed());
        drop(running);
        tokio::time::sleep(AFTER).await;
        seen.gaps.add(writers.gap_since(begun));
    }
    Ok(seen)
}

/// Starts newcomers, who join by themselves.
async fn grow(
    args: &MembersArgs,
    cluster: &Cluster,
    devnet: &Devnet,
    place: &Place,
    turn: usize,
) -> anyhow::Result<(Vec<Node>, Vec<Running>)> {
    let network = devnet.network().await?;
    let config = network.config.display().to_string();
    let (mut nodes, mut running) = (Vec::new(), Vec::new());
    for number in 0..NEWCOMERS {
        let node = Node::new(&place.0, turn * NEWCOMERS + number)?;
        let token = cluster.invite().await?;
        let flags = ["--config", &config, "--join", &network.addresses];
        let variables = [("CIRO_INVITATION", &*token), ("CIRO__NETWORK__NAME", &*args.network)];
        running.push(node.start(&flags, &variables)?);
        nodes.push(node);
    }
    Ok((nodes, running))
}

/// Removes the nodes, of which one leads by then.
async fn shrink(cluster: &Cluster, nodes: &[Node]) -> anyhow::Result<()> {
    if let Some(node) = nodes.first() {
        cluster.hand_over_to(cluster.node(0), &node.id).await?;
    }
    for node in nodes {
        cluster.remove(&node.id).await?;
    }
    Ok(())
}

async fn until_voters(cluster: &Cluster, count: usize, nodes: &[Node]) -> anyhow::Result<()> {
    let deadline = clock::instant() + PATIENCE;
    while voters(cluster).await? != Some(count) {
        if clock::instant() > deadline {
            let logs = nodes.iter().map(|node| std::fs::read_to_string(&node.log).unwrap_or_default());
            let logs: Vec<String> = logs.collect();
            bail!(
                "there are not {count} voters after {} s; what the newcomers say:\n{}",
                PATIENCE.as_secs(),
                logs.join("\n")
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// How many vote; `None` while that is being changed.
async fn voters(cluster: &Cluster) -> anyhow::Result<Option<usize>> {
    let view: Value = cluster.get(cluster.node(0), "/cluster").await?;
    Ok(view["change_in_flight"].is_null().then(|| view["voters"].as_array().map_or(0, Vec::len)))
}
