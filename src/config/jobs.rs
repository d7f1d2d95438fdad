//! The section `[jobs]`: its values, and which of them do not go together.

use serde::Deserialize;

use super::Config;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub hot: u32,
    /// 0: off, as the two after it.
    pub retention_secs: u64,
    pub retention_count: u64,
    pub retention_mb: u64,
}

/// What works but is likely not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let Jobs { hot, retention_secs, retention_count, retention_mb } = config.jobs;
    let mut warnings = Vec::new();
    if [retention_secs, retention_count, retention_mb] == [0; 3] {
        warnings.push("jobs.retention_*: all off, the archive of finished jobs grows without end".to_owned());
    }
    if retention_count > 0 && retention_count < u64::from(hot) {
        warnings.push("jobs.retention_count is below jobs.hot: no more than that many stay in memory".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment, Sources};

    #[test]
    fn the_archive_is_bounded_unless_told_otherwise() {
        for environment in Environment::ALL {
            let config = Config::defaults(environment);
            assert_eq!((config.jobs.hot, config.jobs.retention_count), (100_000, 1_000_000), "{environment}");
            assert!(!config.warnings().iter().any(|warning| warning.contains("jobs.")));
        }
        let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let flags = vec![flag("jobs.retention_count", "0"), flag("jobs.retention_mb", "0")];
        let (open, _) = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        assert!(open.warnings().iter().any(|warning| warning.contains("grows without end")));
        let few = Sources { flags: vec![flag("jobs.retention_count", "50")], ..Sources::default() };
        let (few, _) = Config::load(&few).unwrap();
        assert!(few.warnings().iter().any(|warning| warning.contains("below jobs.hot")));
        assert!(Config::load(&Sources { flags: vec![flag("jobs.hot", "15")], ..Sources::default() }).is_err());
    }
}
