//! The section `[callbacks]`: its values, and which of them do not go together.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Config, Secret, unless_empty};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callbacks {
    pub enabled: bool,
    pub allow_private: bool,
    pub max_age_secs: u64,
    #[serde(deserialize_with = "unless_empty")]
    pub secret: Option<Secret>,
    /// Empty: none.
    pub secret_file: PathBuf,
    /// Empty: none beside the well-known ones.
    pub ca_file: PathBuf,
}

/// Combinations that can not work.
pub(super) fn problems(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let callbacks = &config.callbacks;
    if callbacks.secret.is_some() && !callbacks.secret_file.as_os_str().is_empty() {
        refuse("callbacks.secret_file", "and callbacks.secret say the same; set one of them".to_owned());
    }
}

/// What works but is likely not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let callbacks = &config.callbacks;
    if callbacks.enabled && callbacks.allow_private && !config.environment.is_local() {
        let warning = "callbacks.allow_private is true: whoever can submit a job can make the leader post to machines \
                       of its own network";
        return vec![warning.to_owned()];
    }
    vec![]
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment, Sources};

    const SECRET: &str = "hunter2 and some more words";

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let flags = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match Config::load(&Sources { flags, ..Sources::default() }) {
            Ok((config, _)) => Ok(config),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn callbacks_are_on_and_stay_on_the_internet_where_it_counts() {
        for environment in Environment::ALL {
            let callbacks = Config::defaults(environment).callbacks;
            assert_eq!((callbacks.enabled, callbacks.max_age_secs), (true, 3_600));
            assert_eq!(callbacks.allow_private, environment.is_local(), "{environment}");
        }
        let open = load(&[("environment", "production"), ("callbacks.allow_private", "true")]).unwrap();
        assert!(open.warnings().iter().any(|warning| warning.contains("callbacks.allow_private")));
    }

    #[test]
    fn a_secret_is_taken_and_not_shown() {
        let config = load(&[("callbacks.secret", SECRET)]).unwrap();
        assert_eq!(config.callbacks.secret.as_ref().unwrap().expose(), SECRET);
        assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
        let flags = vec![("callbacks.secret".to_owned(), SECRET.to_owned())];
        let (_, layered) = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        assert!(!layered.print().contains("hunter"), "{}", layered.print());
        for (pairs, expected) in [
            (&[("callbacks.secret", "hunter2")][..], "expected 16 to 1024 characters"),
            (&[("callbacks.secret", SECRET), ("callbacks.secret_file", "s")], "set one of them"),
            (&[("callbacks.max_age_secs", "0")], "expected a whole number from 1"),
        ] {
            let problems = load(pairs).unwrap_err();
            assert!(problems.contains(expected) && !problems.contains("hunter"), "{problems}");
        }
    }
}
