//! What the first feature level writes, kept as bytes: it must be readable for ever.
//!
//! `src/domain/formats/level1.txt` holds, a line each, a command's encoding and
//! what it says; `level1.state` is a state. `UPDATE_GOLDENFILES=1 cargo test
//! formats` writes them anew, which is right only as long as nothing was
//! released: after that, what changes is a new level, see [`crate::domain::level`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::chain::site;
use super::fixture::{SMALL, bytes, check, worker};
use super::properties::record;
use crate::domain::apply::Position;
use crate::domain::archive::Retain;
use crate::domain::chain::Act;
use crate::domain::command::Command;
use crate::domain::ids::Digest;
use crate::domain::level::FIRST;
use crate::domain::member;
use crate::domain::state::State;
use crate::domain::time::Timestamp;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domain/formats");

/// Samples of each kind of command.
const EACH: usize = 3;

/// Every kind of command that the first level has. One that is new belongs to a later level.
fn kind(command: &Command) -> &'static str {
    match command {
        Command::Submit(_) => "submit",
        Command::Cancel { .. } => "cancel",
        Command::RegisterWorker { .. } => "register_worker",
        Command::UnregisterWorker { .. } => "unregister_worker",
        Command::Drain { .. } => "drain",
        Command::Resume { .. } => "resume",
        Command::SetVerdict { .. } => "set_verdict",
        Command::Assign { .. } => "assign",
        Command::Started { .. } => "started",
        Command::Renew { .. } => "renew",
        Command::Expire { .. } => "expire",
        Command::Decline { .. } => "decline",
        Command::Complete(_) => "complete",
        Command::Fail(_) => "fail",
        Command::PassDeadline { .. } => "pass_deadline",
        Command::Delivered { .. } => "delivered",
        Command::Retry { .. } => "retry",
        Command::Ingest(_) => "ingest",
        Command::SeekIntake { .. } => "seek_intake",
        Command::ResetIntake { .. } => "reset_intake",
        Command::ReplayLetter { .. } => "replay_letter",
        Command::DropLetter { .. } => "drop_letter",
        Command::ForgetSink { .. } => "forget_sink",
        Command::Chain(act) => chain_kind(act),
        Command::CalledBack { .. } => "called_back",
        Command::Member(act) => member_kind(act),
        Command::Retain(Retain::Hold { .. }) => "retain hold",
        Command::Retain(Retain::Drop { .. }) => "retain drop",
        Command::Retain(Retain::Expire { .. }) => "retain expire",
        Command::RaiseLevel { .. } => "raise_level",
        Command::Trial { .. } => "of the level for tests",
    }
}

fn chain_kind(act: &Act) -> &'static str {
    match act {
        Act::Claim { .. } => "chain claim",
        Act::Prepare { .. } => "chain prepare",
        Act::Skip { .. } => "chain skip",
        Act::Landed { .. } => "chain landed",
        Act::Lost { .. } => "chain lost",
        Act::Close { .. } => "chain close",
        Act::Abandon { .. } => "chain abandon",
        Act::Park { .. } => "chain park",
        Act::Retry { .. } => "chain retry",
        Act::Drop { .. } => "chain drop",
        Act::Reset { .. } => "chain reset",
        Act::Followed { .. } => "chain followed",
        Act::Rewind { .. } => "chain rewind",
    }
}

fn member_kind(act: &member::Act) -> &'static str {
    match act {
        member::Act::Invite { .. } => "member invite",
        member::Act::Revoke { .. } => "member revoke",
        member::Act::Redeem { .. } => "member redeem",
        member::Act::Add { .. } => "member add",
        member::Act::Met { .. } => "member met",
        member::Act::Moved { .. } => "member moved",
        member::Act::SetVoter { .. } => "member set_voter",
        member::Act::Replace { .. } => "member replace",
        member::Act::Remove { .. } => "member remove",
    }
}

/// What the cases of the properties do not come to.
fn others() -> Vec<Command> {
    use crate::domain::member::Act::{Add, Invite, Met, Moved, Redeem, Remove, Replace, Revoke, SetVoter};
    let (id, node, address) = (Digest::of(b"secret"), worker(1), "/ip4/192.0.2.1/tcp/4001".to_owned());
    let members = [
        Invite { id, voter: true, ttl_ms: 60_000 },
        Revoke { id },
        Redeem { id, node, incarnation: 7, address: address.clone() },
        Add { node, address: address.clone(), voter: false },
        Met { node, incarnation: 7 },
        Moved { node, address },
        SetVoter { node, voter: true },
        Replace { dead: node, by: worker(2) },
        Remove { node },
    ];
    let retain = [
        Retain::Hold { hot: 1_000, batch: 100 },
        Retain::Drop { through: 7 },
        Retain::Expire { before: Timestamp(1_700_000_000_000) },
    ];
    let one = [Command::Chain(Act::Reset { site: site(1) }), Command::RaiseLevel { to: FIRST + 1 }];
    members.into_iter().map(Command::Member).chain(retain.into_iter().map(Command::Retain)).chain(one).collect()
}

/// Kinds in all but that of the level for tests.
const KINDS: usize = 50;

/// Numbers that look like chance, and are the same each time (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0.to_be_bytes()[0]
    }
}

/// Some commands of each kind, and a state that saw many.
fn samples() -> (BTreeMap<&'static str, Vec<Command>>, State) {
    let mut chance = Chance(1);
    let mut state = State::within(SMALL);
    let mut found: BTreeMap<&'static str, Vec<Command>> = BTreeMap::new();
    for index in 1..=6_000 {
        let drafts = (0..chance.byte() % 4).map(|_| std::array::from_fn(|_| chance.byte())).collect();
        let step = i16::from_be_bytes([chance.byte(), chance.byte()]);
        let record = record(&state, &(step, drafts));
        state.apply(Position { index, term: 1 + index / 1_000 }, &record);
        for command in record.commands {
            let known = found.entry(kind(&command)).or_default();
            if known.len() < EACH {
                known.push(command);
            }
        }
    }
    check(&state);
    for command in others() {
        found.entry(kind(&command)).or_default().push(command);
    }
    (found, state)
}

fn encode(command: &Command) -> Vec<u8> {
    bincode::serde::encode_to_vec(command, bincode::config::standard()).unwrap()
}

fn decode(bytes: &[u8]) -> Command {
    let (command, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard()).unwrap();
    assert_eq!(used, bytes.len(), "bytes are left over");
    command
}

/// Writes the samples if that is asked for.
fn update() {
    if std::env::var_os("UPDATE_GOLDENFILES").is_none() {
        return;
    }
    let (commands, state) = samples();
    let mut text = String::new();
    for command in commands.values().flatten() {
        let bytes = encode(command);
        writeln!(text, "{} {:?}", hex::encode(&bytes), decode(&bytes)).unwrap();
    }
    std::fs::create_dir_all(DIR).unwrap();
    std::fs::write(format!("{DIR}/level1.txt"), text).unwrap();
    std::fs::write(format!("{DIR}/level1.state"), bytes(&state)).unwrap();
}

#[test]
fn what_the_first_level_wrote_is_read_and_written_the_same() {
    update();
    let text = std::fs::read_to_string(format!("{DIR}/level1.txt")).unwrap();
    let mut kinds = BTreeMap::<_, usize>::new();
    for line in text.lines() {
        let (stored, said) = line.split_once(' ').unwrap();
        let stored = hex::decode(stored).unwrap();
        let command = decode(&stored);
        assert_eq!(format!("{command:?}"), said, "the bytes mean something else now");
        assert_eq!(hex::encode(encode(&command)), hex::encode(&stored), "{said} is written otherwise now");
        *kinds.entry(kind(&command)).or_default() += 1;
    }
    assert_eq!(kinds.len(), KINDS, "samples of {:?} only", kinds.keys());

    let stored = std::fs::read(format!("{DIR}/level1.state")).unwrap();
    let state = State::read_within(&mut &*stored, SMALL).unwrap();
    check(&state);
    assert_eq!(state.level(), FIRST);
    assert!(bytes(&state) == stored, "a state is written otherwise now");
}
