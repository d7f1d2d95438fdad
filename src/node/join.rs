//! What the configuration says about joining a cluster that runs.

use std::path::PathBuf;

use tracing::warn;

use crate::config::Config;
use crate::consensus::Joining;
use crate::domain::member::Token;

/// Whom to ask, and where they are.
#[derive(Debug)]
pub(super) struct Plan {
    pub addresses: Vec<String>,
    pub joining: Joining,
}

/// Why nobody can be asked. Who was told to join must not found a cluster instead.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the invitation in {} can not be read: {error}; {ADVICE}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("the invitation in {} can not be understood: it is {why}; {ADVICE}", path.display())]
    NoToken { path: PathBuf, why: &'static str },
    #[error("the invitation names no member to ask: add --join with the address of one")]
    NoAddress,
    #[error("it was told to join a cluster, but --join, --invitation and --invitation-file are empty; {ADVICE}")]
    Empty,
}

const ADVICE: &str = "`ciro-coordinator cluster invite` on a member makes a new one; without anything about joining \
                      this node would begin a cluster of its own";

/// `None`: this node is not to join. `told`: the command line says so, whatever it says of how. `new`: it never was a
/// member of any cluster; to one that was, all this is of no use, so what is wrong with it is a warning.
pub(super) fn plan(config: &Config, told: bool, new: bool) -> Result<Option<Plan>, Trouble> {
    match find(config, told) {
        Err(trouble) if !new => {
            warn!(%trouble, "can not join, which a member need not");
            Ok(by(config.cluster.join.clone(), None))
        }
        found => found,
    }
}

fn find(config: &Config, told: bool) -> Result<Option<Plan>, Trouble> {
    let cluster = &config.cluster;
    let token = token(config)?;
    let named = token.iter().flat_map(|token| token.addresses.iter());
    let plan = by(cluster.join.iter().chain(named).cloned().collect(), token.as_ref());
    match (&plan, &token) {
        (None, Some(_)) => Err(Trouble::NoAddress),
        (None, None) if told && cluster.initial_members.is_empty() => Err(Trouble::Empty),
        _ => Ok(plan),
    }
}

fn by(mut addresses: Vec<String>, token: Option<&Token>) -> Option<Plan> {
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    let id = |address: &String| address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse().ok());
    let peers = addresses.iter().filter_map(id).collect();
    Some(Plan { joining: Joining { peers, secret: token.map(|token| token.secret) }, addresses })
}

fn token(config: &Config) -> Result<Option<Token>, Trouble> {
    let cluster = &config.cluster;
    let path = &cluster.invitation_file;
    let (text, path) = match &cluster.invitation {
        Some(text) => (text.expose().to_owned(), PathBuf::from("the configuration")),
        None if path.as_os_str().is_empty() => return Ok(None),
        None => {
            let text = std::fs::read_to_string(path);
            (text.map_err(|error| Trouble::File { path: path.clone(), error })?, path.clone())
        }
    };
    text.parse().map(Some).map_err(|why| Trouble::NoToken { path, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::domain::PeerId;
    use crate::domain::member::Secret;

    fn config(set: &[(&str, &str)]) -> Config {
        let flags = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(&Sources { flags, ..Sources::default() }).unwrap().0
    }

    fn member() -> String {
        format!("/ip4/10.0.0.1/tcp/4001/p2p/{}", PeerId([1; 32]))
    }

    #[test]
    fn who_can_not_read_its_invitation_does_not_begin_a_cluster_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let file = path.to_str().unwrap();
        let whole = Token::new(Secret([7; 32]), [member()]).to_string();
        let alone = Token::new(Secret([7; 32]), []).to_string();
        let (cut, join) = (&whole[..whole.len() - 3], member());
        let bad =
            [(None, "can not be read"), (Some(""), "can not be understood"), (Some(cut), "can not be understood")];
        for (text, why) in bad.into_iter().chain([(Some(alone.as_str()), "names no member")]) {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let config = config(&[("cluster.invitation_file", file)]);
            let refused = plan(&config, true, true).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
            assert!(refused.contains(file) || why == "names no member", "{refused}");
            assert!(plan(&config, true, false).unwrap().is_none(), "a member starts");
        }
        // Where to ask is not enough: it has an invitation that it could not show.
        std::fs::write(&path, cut).unwrap();
        let both = config(&[("cluster.invitation_file", file), ("cluster.join", &join)]);
        assert!(plan(&both, true, true).is_err() && plan(&both, true, false).unwrap().is_some());

        std::fs::write(&path, whole).unwrap();
        let found = plan(&config(&[("cluster.invitation_file", file)]), true, true).unwrap().unwrap();
        assert_eq!((found.addresses, found.joining.peers), (vec![member()], vec![PeerId([1; 32])]));
        assert_eq!(found.joining.secret, Some(Secret([7; 32])));
    }

    #[test]
    fn who_is_told_to_join_nobody_does_not_start_and_who_is_not_told_is_alone() {
        let refused = plan(&config(&[("cluster.join", "")]), true, true).unwrap_err().to_string();
        assert!(refused.contains("are empty"), "{refused}");
        assert!(plan(&config(&[]), false, true).unwrap().is_none());
    }
}
