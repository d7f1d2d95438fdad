//! What the configuration says about joining a cluster that runs.

use tracing::warn;

use crate::config::Config;
use crate::consensus::Joining;
use crate::domain::member::Token;

/// Whom to ask, and where they are.
pub(super) struct Plan {
    pub addresses: Vec<String>,
    pub joining: Joining,
}

/// `None`: this node is not to join. A token that can not be read is not needed by a node that is a member already,
/// and one that is not says what it lacks; so it is a warning.
pub(super) fn plan(config: &Config) -> Option<Plan> {
    let cluster = &config.cluster;
    let token = token(config);
    let mut addresses = cluster.join.clone();
    addresses.extend(token.iter().flat_map(|token| token.addresses.iter().cloned()));
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return None;
    }
    let id = |address: &String| address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse().ok());
    let peers = addresses.iter().filter_map(id).collect();
    Some(Plan { joining: Joining { peers, secret: token.map(|token| token.secret) }, addresses })
}

fn token(config: &Config) -> Option<Token> {
    let cluster = &config.cluster;
    let text = match (&cluster.invitation, cluster.invitation_file.as_os_str().is_empty()) {
        (Some(text), _) => text.expose().to_owned(),
        (None, true) => return None,
        (None, false) => match std::fs::read_to_string(&cluster.invitation_file) {
            Ok(text) => text,
            Err(error) => {
                warn!(path = %cluster.invitation_file.display(), %error, "read the invitation");
                return None;
            }
        },
    };
    match text.parse() {
        Ok(token) => Some(token),
        Err(why) => {
            warn!(why, "the invitation can not be understood");
            None
        }
    }
}
