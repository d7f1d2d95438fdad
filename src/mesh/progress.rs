//! How far an attempt says it is: told with heartbeats, never part of the log.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use crate::domain::JobId;
use crate::wire;
use crate::wire::proto::mesh::v1 as proto;

/// Bytes of a message. What is longer is cut.
const MESSAGE_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// None: it does not say.
    pub permille: Option<u32>,
    pub message: String,
}

impl Progress {
    /// Bytes of a heartbeat for all that attempts say, with tags and lengths. With as many attempts as a worker may run
    /// the heartbeat stays within gossip's limit.
    pub const BYTES_MAX: usize = 24 * 1024;

    /// What an attempt says, made fit to be shown. `None` if that is nothing.
    pub fn new(permille: Option<u32>, message: &str) -> Option<Self> {
        let printable = message.chars().map(|char| if char.is_control() { ' ' } else { char });
        let mut size = 0;
        let fits = |char: &char| {
            size += char.len_utf8();
            size <= MESSAGE_MAX
        };
        let message: String = printable.take_while(fits).collect();
        let message = message.trim().to_owned();
        let permille = permille.map(|permille| permille.min(1_000));
        (permille.is_some() || !message.is_empty()).then_some(Self { permille, message })
    }

    /// Bytes of one in a heartbeat: with tag and length.
    pub fn size_in_heartbeat(said: &proto::AttemptProgress) -> usize {
        said.encoded_len() + 3
    }

    pub fn to_proto(&self, (job, attempt): (JobId, u32)) -> proto::AttemptProgress {
        proto::AttemptProgress {
            attempt: Some(wire::attempt_ref(job, attempt)),
            permille: self.permille,
            message: self.message.clone(),
        }
    }
}

/// What a heartbeat says of the attempts it names as `running`. `None` if an attempt is none, or if all of it is more
/// than a worker sends.
pub(super) fn from_proto(
    from: Vec<proto::AttemptProgress>,
    running: &[(JobId, u32)],
) -> Option<BTreeMap<(JobId, u32), Progress>> {
    if from.iter().map(Progress::size_in_heartbeat).sum::<usize>() > Progress::BYTES_MAX {
        return None;
    }
    let running: BTreeSet<_> = running.iter().collect();
    let parse = |said: proto::AttemptProgress| {
        let key = wire::parse_attempt(said.attempt.as_ref())?;
        Some((key, Progress::new(said.permille, &said.message)))
    };
    let all = from.into_iter().map(parse).collect::<Option<Vec<_>>>()?;
    let known = all.into_iter().filter(|(key, _)| running.contains(key));
    Some(known.filter_map(|(key, progress)| Some((key, progress?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_is_made_fit_to_be_shown() {
        let key = (JobId([1; 16]), 2);
        let said = Progress { permille: Some(9_999), message: format!("\u{1b}[31m{}", "x".repeat(20_000)) };
        let heard = from_proto(vec![said.to_proto(key)], &[key]).unwrap();
        let heard = &heard[&key];
        assert_eq!(heard.permille, Some(1_000));
        assert!(heard.message.len() <= MESSAGE_MAX && heard.message.starts_with("[31mxx"), "{heard:?}");
        let nothing = Progress { permille: None, message: "\n".to_owned() };
        assert!(from_proto(vec![nothing.to_proto(key)], &[key]).unwrap().is_empty());
        assert!(from_proto(vec![proto::AttemptProgress::default()], &[]).is_none(), "of no attempt");
    }

    #[test]
    fn a_heartbeat_speaks_of_its_own_attempts_and_not_at_length() {
        let key = |n: u128| (JobId(n.to_be_bytes()), 1);
        let said = |n| Progress::new(Some(5), &"x".repeat(128)).unwrap().to_proto(key(n));
        let heard = from_proto(vec![said(1), said(2), said(3)], &[key(2), key(9)]).unwrap();
        assert_eq!(heard.into_keys().collect::<Vec<_>>(), [key(2)], "the others do not run there");
        let most = (Progress::BYTES_MAX / Progress::size_in_heartbeat(&said(1))) as u128;
        let running: Vec<_> = (0..=most).map(key).collect();
        assert_eq!(from_proto((0..most).map(said).collect(), &running).unwrap().len() as u128, most);
        assert!(from_proto((0..=most).map(said).collect(), &running).is_none(), "more than a worker sends");
    }
}
