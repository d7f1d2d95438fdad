//! The section `[backup]`: its values, and which of them do not go together.

use std::path::PathBuf;

use serde::Deserialize;

use super::Config;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Empty: none are taken by the node itself.
    pub directory: PathBuf,
    pub every_secs: u64,
    pub keep: usize,
    pub max_mb_per_sec: u64,
}

/// Combinations that can not work.
pub(super) fn problems(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let (directory, data) = (&config.backup.directory, &config.node.data_dir);
    if !directory.as_os_str().is_empty() && directory.starts_with(data) {
        let why =
            "lies in node.data_dir, with which it would be lost; choose a directory elsewhere, best on another disk";
        refuse("backup.directory", why.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment, Sources};

    #[test]
    fn backups_are_off_until_there_is_a_directory_outside_of_the_data() {
        for environment in Environment::ALL {
            let backup = Config::defaults(environment).backup;
            assert!(backup.directory.as_os_str().is_empty(), "{environment}");
            assert_eq!((backup.every_secs, backup.keep, backup.max_mb_per_sec), (3_600, 24, 32));
        }
        let load = |directory: &str| {
            let flags = [("node.data_dir", "/data"), ("backup.directory", directory)];
            let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Config::load(&Sources { flags, ..Sources::default() })
        };
        assert!(load("/backups").is_ok());
        let refused = load("/data/backups").unwrap_err().to_string();
        assert!(refused.contains("backup.directory: lies in node.data_dir"), "{refused}");
    }
}
