//! How far an attempt says it is: told with heartbeats, never part of the log.

use std::collections::BTreeMap;

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

    pub fn to_proto(&self, (job, attempt): (JobId, u32)) -> proto::AttemptProgress {
        proto::AttemptProgress {
            attempt: Some(wire::attempt_ref(job, attempt)),
            permille: self.permille,
            message: self.message.clone(),
        }
    }
}

/// What a heartbeat says. `None` if an attempt is none.
pub(super) fn from_proto(from: Vec<proto::AttemptProgress>) -> Option<BTreeMap<(JobId, u32), Progress>> {
    let parse = |said: proto::AttemptProgress| {
        let key = wire::parse_attempt(said.attempt.as_ref())?;
        Some((key, Progress::new(said.permille, &said.message)))
    };
    let all = from.into_iter().map(parse).collect::<Option<Vec<_>>>()?;
    Some(all.into_iter().filter_map(|(key, progress)| Some((key, progress?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_is_made_fit_to_be_shown() {
        let key = (JobId([1; 16]), 2);
        let said = Progress { permille: Some(9_999), message: format!("\u{1b}[31m{}", "x".repeat(60_000)) };
        let heard = from_proto(vec![said.to_proto(key)]).unwrap();
        let heard = &heard[&key];
        assert_eq!(heard.permille, Some(1_000));
        assert!(heard.message.len() <= MESSAGE_MAX && heard.message.starts_with("[31mxx"), "{heard:?}");
        let nothing = Progress { permille: None, message: "\n".to_owned() };
        assert!(from_proto(vec![nothing.to_proto(key)]).unwrap().is_empty());
        assert!(from_proto(vec![proto::AttemptProgress::default()]).is_none(), "of no attempt");
    }
}
