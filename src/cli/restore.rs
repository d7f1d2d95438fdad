//! `cluster restore` and `cluster recover`: what is done to a data directory while no node runs on it.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::backup::{cannot, open, refused as not_usable};
use super::failure::{Failure, Kind};
use super::start::{assignment, refused, variables};
use super::{Remote, output};
use crate::backup::read::Backup;
use crate::config::{Config, Environment, Sources};
use crate::consensus::{self, Findings};
use crate::domain::archive::Segment;
use crate::domain::journal::Sink;
use crate::domain::restore::{Sinks, Through};
use crate::domain::{Digest, NodeId};
use crate::mesh::Identity;
use crate::storage::{self, OpenOptions};
use crate::submission::text::time;

/// The node's store, in its data directory.
const STORE: &str = "store";

/// Where it is made: it has its name only when it is whole.
const MAKING: &str = "store.restoring";

/// Which node it is about, as `start` is told.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// The node's configuration file
    #[arg(long, short, value_name = "PATH", env = "CIRO_CONFIG")]
    config: Option<PathBuf>,
    /// development, staging, production or test
    #[arg(long, short, value_name = "NAME")]
    environment: Option<Environment>,
    /// Set a key, e.g. --set network.name=ciro
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// The same as --set node.data_dir=PATH
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// A backup
    file: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    /// Voters of the new cluster, this node among them: comma separated multiaddrs with /p2p/; the same on all of them
    #[arg(long, value_name = "MULTIADDRS")]
    members: Option<String>,
    /// What Kafka has of the events in the backup: continue (what the backup says), skip (all), or through which number
    #[arg(long, value_name = "THROUGH", default_value = "continue", value_parser = through)]
    kafka: Known,
    /// The same of the chain: events that are skipped are never settled, nor what is parked, waits to be tried again or is
    /// in flight. A job that waits for its registration still does, until its deadline or until it is cancelled
    #[arg(long, value_name = "THROUGH", default_value = "continue", value_parser = through)]
    chain: Known,
    /// Restore under another network.name: events get other ids, and consumers take them for new ones
    #[arg(long)]
    other_network: bool,
}

#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What an operator knows of a sink; `None`: what the backup says.
#[derive(Clone, Copy, Debug)]
struct Known(Option<Through>);

fn through(text: &str) -> Result<Known, String> {
    match text {
        "continue" => Ok(Known(None)),
        "skip" => Ok(Known(Some(Through::All))),
        number => {
            let expected = |_| "expected continue, skip, or the number of an event".to_owned();
            Ok(Known(Some(Through::Entry(number.parse().map_err(expected)?))))
        }
    }
}

impl NodeArgs {
    fn load(&self, members: Option<&String>) -> Result<Config, Failure> {
        let named = [("node.data_dir", self.data_dir.as_ref()), ("cluster.initial_members", members)];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.cloned()?)));
        let sources = Sources {
            file: self.config.clone(),
            variables: variables(),
            environment: self.environment,
            flags: self.set.iter().cloned().chain(named).collect(),
        };
        Ok(Config::load(&sources).map_err(|error| refused(&error))?.0)
    }
}

// ------------------------------------------------------------------ restore

pub async fn restore(args: RestoreArgs, remote: &Remote) -> Result<(), Failure> {
    let config = args.node.load(args.members.as_ref())?;
    let (data, key) = (&config.node.data_dir, &config.node.key_file);
    fs::create_dir_all(data).map_err(|error| cannot("make directory", data, &error))?;
    must_be_empty(data, key)?;
    let backup = open(&args.file)?;
    backup.restorable().map_err(|error| not_usable(&args.file, &error))?;
    let identity = Identity::load_or_create(key).map_err(|error| Failure::because("open identity", &error))?;
    let members = members(&config, identity.id())?;
    must_be_new(&backup, &members, &config, args.other_network)?;

    let sinks = [(Sink::Kafka, args.kafka), (Sink::Chain, args.chain)];
    let sinks: Sinks = sinks.into_iter().filter_map(|(sink, known)| Some((sink, known.0?))).collect();
    let header = backup.header.clone();
    // A node that was told of other members shows another state hash.
    let mut name = members.clone();
    name.sort();
    let name = Digest::of(name.join(",").as_bytes());
    let state =
        backup.state.clone().restored(&sinks, header.term, name).map_err(|error| Failure::usage(error.to_string()))?;
    make(data, identity.id(), &members, &state, (&backup, &args.file)).await?;
    let told = json!({
        "node_id": identity.id().to_string(),
        "data_dir": data,
        "restored_index": header.index,
        "index": state.applied(),
        "term": state.applied_term(),
        "state_hash": hex::encode(state.hash().0),
        "jobs": header.jobs,
        "members": members,
    });
    if remote.json {
        return output::json(&told);
    }
    output::thing(&told)?;
    output::line("\nRestore the same file with the same members on every other one of them, then start them all.")
}

/// Nothing may be there but the node's key, and what an attempt that was cut short left.
fn must_be_empty(data: &Path, key: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(data).map_err(|error| cannot("read", data, &error))? {
        let path = entry.map_err(|error| cannot("read", data, &error))?.path();
        if path == data.join(MAKING) {
            fs::remove_dir_all(&path).map_err(|error| cannot("remove", &path, &error))?;
        } else if path != key && path.file_name() != key.file_name() {
            let message = format!("{} is not empty: it holds {}", data.display(), path.display());
            return Err(Failure::new(Kind::Refused, message)
                .hint("a backup is restored into a new data directory; only the node's key may be there"));
        }
    }
    Ok(())
}

/// The members that are configured, or this node alone.
fn members(config: &Config, own: NodeId) -> Result<Vec<String>, Failure> {
    let members = &config.cluster.initial_members;
    if members.is_empty() {
        let hint = format!("--members /ip4/<address>/udp/<port>/quic-v1/p2p/{own}, and those of the others");
        return Err(Failure::usage("the new cluster's members are not said").hint(hint));
    }
    if !config.cluster.member_ids().contains(&own) {
        let message = format!("this node {own} is not among the members {}", members.join(", "));
        return Err(Failure::usage(message).hint("`ciro-coordinator identity` prints a node's id"));
    }
    Ok(members.clone())
}

/// The new cluster must not be taken for the old one by what is left of it.
fn must_be_new(backup: &Backup, members: &[String], config: &Config, other_network: bool) -> Result<(), Failure> {
    let old = |member: &&String| {
        let id = member.rsplit_once("/p2p/").map(|(_, id)| id);
        backup.header.members.iter().any(|old| Some(old.id.as_str()) == id)
    };
    if let Some(member) = members.iter().find(old) {
        let message = format!("{member} is a member of the cluster that the backup is of");
        return Err(Failure::new(Kind::Refused, message).hint(
            "every member of a restored cluster has a new key: remove node.key, run `ciro-coordinator identity`, and \
             name the new ids",
        ));
    }
    let (found, wanted) = (&backup.header.network, &config.network.name);
    if found != wanted && !other_network {
        let message = format!("the backup is of the network {found:?}, and network.name is {wanted:?}");
        return Err(Failure::new(Kind::Refused, message)
            .hint("events are named after the network: keep its name, or say --other-network"));
    }
    Ok(())
}

/// Makes the store beside its name, and gives it that when it is whole.
async fn make(
    data: &Path,
    own: NodeId,
    members: &[String],
    state: &crate::domain::State,
    (backup, file): (&Backup, &Path),
) -> Result<(), Failure> {
    let making = data.join(MAKING);
    let store = OpenOptions::new().ballast_bytes(0).open(&making, own).map_err(|error| failed("make store", &error))?;
    let segments = consensus::Segments::open(&store).map_err(|error| failed("write store", &error))?;
    let keep =
        |segment: &Segment, bytes: &[u8]| segments.keep(segment, bytes).map_err(|error| io::Error::other(error).into());
    backup.segments(file, keep).map_err(|error| not_usable(file, &error))?;
    consensus::found(&store, own, members, state).await.map_err(|error| failed("write store", &error))?;
    drop(store);
    let named = fs::rename(&making, data.join(STORE)).and_then(|()| fs::File::open(data)?.sync_all());
    named.map_err(|error| cannot("name", &data.join(STORE), &error))
}

fn failed(context: &str, error: &dyn std::error::Error) -> Failure {
    Failure::because(context, error)
}

// ------------------------------------------------------------------ recover

pub async fn recover(args: RecoverArgs, remote: &Remote) -> Result<(), Failure> {
    let config = args.node.load(None)?;
    let dir = config.node.data_dir.join(STORE);
    if !dir.join("store.toml").is_file() || !config.node.key_file.is_file() {
        let message = format!("{} is not the data directory of a node", config.node.data_dir.display());
        return Err(Failure::new(Kind::Refused, message).hint("--config or --data-dir names the survivor's"));
    }
    let identity =
        Identity::load_or_create(&config.node.key_file).map_err(|error| Failure::because("open identity", &error))?;
    let store = OpenOptions::new().ballast_bytes(0).open(&dir, identity.id()).map_err(|error| match error {
        storage::Error::Refused(why) => Failure::new(Kind::Refused, why),
        other => failed("open store", &other),
    })?;
    let survivor = consensus::survey(store, identity.id()).await.map_err(|error| match error {
        consensus::Error::Setup(why) => Failure::new(Kind::Refused, why),
        other => failed("read store", &other),
    })?;
    let found = survivor.findings().clone();
    warn(&found)?;
    if !args.yes {
        confirm(&found)?;
    }
    let (term, index) = survivor.recover().await.map_err(|error| failed("recover", &error))?;
    let told = json!({
        "node_id": found.node.to_string(), "term": term, "index": index, "kept_through": found.last,
        "removed": found.members.iter().filter(|member| member.id != found.node).map(|member| member.id.to_string())
            .collect::<Vec<_>>(),
    });
    if remote.json {
        return output::json(&told);
    }
    output::thing(&told)?;
    output::line("\nStart this node: it is a cluster of one. Others join it with new keys and empty data directories.")
}

/// Says what is known, what is not, and what is about to be lost. On standard error: the answer is what came of it.
fn warn(found: &Findings) -> Result<(), Failure> {
    let mut text = format!(
        "This node {} has\n  entries through {} (term {}), the last of them of {}\n  {} jobs that were ever accepted\n",
        found.node,
        found.last,
        found.term,
        time(found.at),
        found.jobs,
    );
    let open = found.last.saturating_sub(found.committed);
    text += &format!(
        "It knows that entries through {} were committed. {open} after that, with {} jobs, may or may not have been: \
         they are kept.\n\nMembers that it knows, and that will be members no more:\n",
        found.committed, found.jobs_uncommitted,
    );
    for member in found.members.iter().filter(|member| member.id != found.node) {
        text += &format!("  {} {} {}\n", member.id, member.address, if member.voter { "(voter)" } else { "(learner)" });
    }
    text += &format!(
        "\nWhat may be lost: everything that was acknowledged after entry {}, by a majority without this node. How much \
         that is, nobody but the others knows: not how many jobs, and not how far each of them had got. If one of them \
         has its data directory, recover there if its last entry is higher.\n\n\
         Stop the others first, and never start them on their old data again. One that comes back and reaches this \
         node is told, and stops. Two of them that come back WITHOUT reaching this node are a majority of the old \
         cluster: they would go on beside this one, and both would assign, publish and pay.\n",
        found.last,
    );
    std::io::stderr().write_all(text.as_bytes()).map_err(Failure::from)
}

fn confirm(found: &Findings) -> Result<(), Failure> {
    let node = found.node.to_string();
    let mut err = std::io::stderr();
    err.write_all(b"\nType this node's id to go on: ")?;
    err.flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    if typed.trim() == node {
        return Ok(());
    }
    Err(Failure::new(Kind::Refused, "that is not the id; nothing was changed")
        .hint(format!("the id is {node}; --yes does not ask")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_may_be_in_a_data_directory_that_is_restored_into() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("node.key");
        must_be_empty(dir.path(), &key).unwrap();
        fs::write(&key, "key").unwrap();
        fs::create_dir(dir.path().join(MAKING)).unwrap();
        must_be_empty(dir.path(), &key).unwrap();
        assert!(!dir.path().join(MAKING).exists(), "what was cut short is begun again");
        fs::create_dir(dir.path().join(STORE)).unwrap();
        let refused = must_be_empty(dir.path(), &key).unwrap_err();
        assert_eq!(refused.code(), 4);
    }

    #[test]
    fn what_a_sink_has_is_said_in_one_word_or_number() {
        assert!(matches!(through("continue"), Ok(Known(None))));
        assert!(matches!(through("skip"), Ok(Known(Some(Through::All)))));
        assert!(matches!(through("17"), Ok(Known(Some(Through::Entry(17))))));
        assert!(through("all").is_err());
    }
}
