//! What a node says of its program when it is asked: name, version, and which of its lives this is.
//!
//! A process that is killed says no farewell, and QUIC takes its connections for alive until they have been silent
//! for seconds. A number that each process draws tells its connections from those of the one before.

/// What a process with this number says.
pub(super) fn of_life(life: u64) -> String {
    format!("ciro/{} {life:016x}", env!("CARGO_PKG_VERSION"))
}

/// Name and version, and the number, if there is one.
pub(super) fn parse(agent: &str) -> (&str, Option<u64>) {
    let told = agent.rsplit_once(' ').filter(|(_, life)| life.len() == 16);
    let parsed = told.and_then(|(agent, life)| Some((agent, u64::from_str_radix(life, 16).ok()?)));
    parsed.map_or((agent, None), |(agent, life)| (agent, Some(life)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_told_and_others_have_none() {
        let agent = of_life(7);
        assert_eq!(parse(&agent), (concat!("ciro/", env!("CARGO_PKG_VERSION")), Some(7)));
        for other in ["", "rust-libp2p/0.1", "kubo/0.30 desktop", "ciro/0.1.0 00000000000000zz"] {
            assert_eq!(parse(other), (other, None));
        }
    }
}
