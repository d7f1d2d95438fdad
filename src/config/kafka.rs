//! The section `[kafka]`: its values, and which of them do not go together.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Config, Secret, unless_empty};
use crate::kafka::{Delivery, Mode, Protocol, Start, Topics};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub enabled: bool,
    pub bootstrap_servers: Vec<String>,
    pub mode: Mode,
    pub delivery: Delivery,
    pub job_topic: String,
    pub worker_topic: String,
    pub result_topic: String,
    pub create_topics: bool,
    pub intake_from: Start,
    pub max_in_flight_jobs: usize,
    pub batch_records: usize,
    pub batch_bytes: usize,
    pub security_protocol: Protocol,
    /// Empty: none.
    pub sasl_mechanism: String,
    #[serde(deserialize_with = "unless_empty")]
    pub sasl_username: Option<Secret>,
    #[serde(deserialize_with = "unless_empty")]
    pub sasl_password: Option<Secret>,
    /// Empty, like the other files: none.
    pub ssl_ca_file: PathBuf,
    pub ssl_certificate_file: PathBuf,
    pub ssl_key_file: PathBuf,
}

impl Kafka {
    pub fn topics(&self) -> Topics {
        Topics { jobs: self.job_topic.clone(), workers: self.worker_topic.clone(), results: self.result_topic.clone() }
    }

    fn has_tls(&self) -> bool {
        matches!(self.security_protocol, Protocol::Ssl | Protocol::SaslSsl)
    }

    fn has_sasl(&self) -> bool {
        matches!(self.security_protocol, Protocol::SaslPlaintext | Protocol::SaslSsl)
    }
}

/// Combinations that can not work.
pub(super) fn problems(config: &Config, refuse: &mut impl FnMut(&str, String)) {
    let kafka = &config.kafka;
    if kafka.enabled && !cfg!(feature = "kafka") {
        refuse("kafka.enabled", "this build has no Kafka support; build with --features kafka".to_owned());
    }
    if kafka.enabled && kafka.bootstrap_servers.is_empty() {
        refuse("kafka.bootstrap_servers", "is empty, and kafka.enabled is true; name a broker".to_owned());
    }
    if kafka.delivery == Delivery::ExactlyOnce && kafka.mode == Mode::Embedded {
        let reason = "exactly_once needs brokers with transactions, which the embedded one has not; \
                      set at_least_once, or kafka.mode = \"external\"";
        refuse("kafka.delivery", reason.to_owned());
    }
    topics(kafka, refuse);
    sasl(kafka, refuse);
    tls(kafka, refuse);
}

fn topics(kafka: &Kafka, refuse: &mut impl FnMut(&str, String)) {
    let topics = kafka.topics();
    let (letters, progress) = (topics.dead_letters(), topics.progress());
    let mut seen = BTreeSet::from([letters.as_str(), progress.as_str()]);
    for (key, topic) in [
        ("kafka.job_topic", &kafka.job_topic),
        ("kafka.worker_topic", &kafka.worker_topic),
        ("kafka.result_topic", &kafka.result_topic),
    ] {
        if !seen.insert(topic) {
            refuse(
                key,
                format!(
                    "{topic} is used for something else too (dead letters go to {letters}, progress to {progress})"
                ),
            );
        }
    }
}

fn sasl(kafka: &Kafka, refuse: &mut impl FnMut(&str, String)) {
    let parts = [
        ("kafka.sasl_mechanism", !kafka.sasl_mechanism.is_empty()),
        ("kafka.sasl_username", kafka.sasl_username.is_some()),
        ("kafka.sasl_password", kafka.sasl_password.is_some()),
    ];
    let protocol = kafka.security_protocol.as_str();
    for (key, given) in parts {
        if given && !kafka.has_sasl() {
            refuse(key, format!("needs kafka.security_protocol sasl_plaintext or sasl_ssl; it is {protocol}"));
        } else if !given && kafka.has_sasl() {
            refuse(key, format!("is needed with kafka.security_protocol = \"{protocol}\""));
        }
    }
    if kafka.sasl_mechanism.starts_with("SCRAM") && !cfg!(feature = "kafka-tls") {
        refuse(
            "kafka.sasl_mechanism",
            format!("{} needs a build with --features kafka-tls; this one has PLAIN", kafka.sasl_mechanism),
        );
    }
}

fn tls(kafka: &Kafka, refuse: &mut impl FnMut(&str, String)) {
    let protocol = kafka.security_protocol.as_str();
    if kafka.has_tls() && !cfg!(feature = "kafka-tls") {
        refuse("kafka.security_protocol", format!("{protocol} needs a build with --features kafka-tls"));
    }
    let files = [
        ("kafka.ssl_ca_file", &kafka.ssl_ca_file),
        ("kafka.ssl_certificate_file", &kafka.ssl_certificate_file),
        ("kafka.ssl_key_file", &kafka.ssl_key_file),
    ];
    for (key, file) in files {
        if !file.as_os_str().is_empty() && !kafka.has_tls() {
            refuse(key, format!("needs kafka.security_protocol ssl or sasl_ssl; it is {protocol}"));
        }
    }
    if kafka.ssl_certificate_file.as_os_str().is_empty() != kafka.ssl_key_file.as_os_str().is_empty() {
        refuse("kafka.ssl_key_file", "and kafka.ssl_certificate_file go together; set both or none".to_owned());
    }
}

/// What works but is likely not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let kafka = &config.kafka;
    let mut warnings = vec![];
    if !kafka.enabled || config.environment.is_local() {
        return warnings;
    }
    if kafka.security_protocol == Protocol::SaslPlaintext {
        warnings.push("kafka.security_protocol is sasl_plaintext: name and password travel readable by all".to_owned());
    }
    if kafka.mode == Mode::Embedded {
        warnings.push("kafka.mode is embedded: that broker keeps nothing; it is for development".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment, Sources};

    fn load(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let flags = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        match Config::load(&Sources { flags, ..Sources::default() }) {
            Ok((config, _)) => Ok(config),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is set, and what is said against it.
    type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);

    const SASL: [(&str, &str); 3] =
        [("kafka.sasl_mechanism", "PLAIN"), ("kafka.sasl_username", "u"), ("kafka.sasl_password", "hunter2")];

    #[test]
    fn what_does_not_go_together_is_refused_with_what_would() {
        let tls = if cfg!(feature = "kafka-tls") { None } else { Some("needs a build with --features kafka-tls") };
        let cases: [Case; 12] = [
            (
                &[("kafka.enabled", "true"), ("kafka.bootstrap_servers", "")],
                Some("kafka.bootstrap_servers: is empty, and kafka.enabled is true; name a broker"),
            ),
            (
                &[("kafka.mode", "embedded"), ("kafka.delivery", "exactly_once")],
                Some("kafka.delivery: exactly_once needs brokers with transactions"),
            ),
            (&[("kafka.worker_topic", "ciro.jobs")], Some("ciro.jobs is used for something else too")),
            (&[("kafka.worker_topic", "ciro.jobs.dlq")], Some("(dead letters go to ciro.jobs.dlq")),
            (&[("kafka.security_protocol", "sasl_plaintext")], Some("kafka.sasl_password: is needed with")),
            (&[("kafka.sasl_password", "hunter2")], Some("kafka.sasl_password: needs kafka.security_protocol sasl_")),
            (&[("kafka.ssl_ca_file", "ca.pem")], Some("kafka.ssl_ca_file: needs kafka.security_protocol ssl")),
            (&[("kafka.ssl_key_file", "k.pem")], Some("kafka.ssl_certificate_file go together; set both or none")),
            (&[("kafka.security_protocol", "ssl")], tls),
            (&[("kafka.sasl_mechanism", "OAUTHBEARER")], Some("expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")),
            (&[("kafka.intake_from", "now")], Some("expected earliest or latest")),
            (&[("kafka.batch_records", "0")], Some("expected a whole number from 1 to 10000")),
        ];
        for (pairs, expected) in cases {
            match (load(pairs), expected) {
                (Ok(_), None) => {}
                (Err(problems), Some(expected)) => {
                    assert!(problems.contains(expected), "{pairs:?} gave {problems:?}");
                    assert!(!problems.contains("hunter"), "{problems}");
                }
                (loaded, _) => panic!("{pairs:?} gave {loaded:?}"),
            }
        }
    }

    #[test]
    fn a_name_and_a_password_are_taken_and_kept() {
        let mut pairs = vec![("kafka.security_protocol", "sasl_plaintext")];
        pairs.extend(SASL);
        let config = load(&pairs).unwrap();
        assert_eq!(config.kafka.sasl_password.as_ref().unwrap().expose(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter"));
        pairs.extend([("environment", "production"), ("kafka.enabled", "true"), ("kafka.mode", "embedded")]);
        if cfg!(feature = "kafka") {
            let warnings = load(&pairs).unwrap().warnings().join("\n");
            assert!(warnings.contains("travel readable by all") && warnings.contains("keeps nothing"), "{warnings}");
        }
    }

    #[test]
    fn a_build_without_kafka_says_so_and_topics_are_made_where_things_are_tried_out() {
        assert_eq!(load(&[("kafka.enabled", "true")]).is_ok(), cfg!(feature = "kafka"));
        assert!(Config::defaults(Environment::Test).kafka.create_topics);
        assert!(!Config::defaults(Environment::Production).kafka.create_topics);
    }
}
