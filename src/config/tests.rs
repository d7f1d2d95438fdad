//! What is accepted, what is refused and with which words, and that nothing secret is shown.

use std::path::{Path, PathBuf};

use super::schema::{KEYS, SECTIONS};
use super::{Config, Environment, Error, Layered, Origin, Sources, generate, text};

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
const OTHER: &str = "12D3KooWSahP5pFRCEfaziPEba7urXGeif6T1y8jmodzdFUvzBHj";

/// A file that goes away with the test.
struct File(tempfile::TempDir);

impl File {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.toml"), text).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("c.toml")
    }
}

fn set(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load_flags(pairs: &[(&str, &str)]) -> Result<(Config, Layered), Error> {
    Config::load(&Sources { flags: set(pairs), ..Sources::default() })
}

fn load_file(text: &str) -> Result<(Config, Layered), Error> {
    let file = File::new(text);
    Config::load(&Sources { file: Some(file.path()), ..Sources::default() })
}

/// The problems a file has, without its path.
fn refused(text: &str) -> String {
    let problems = load_file(text).unwrap_err().to_string();
    problems
        .lines()
        .map(|line| line.split_once("c.toml:").map_or(line, |(_, rest)| rest))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_environment_loads_with_the_defaults_users_know() {
    for environment in Environment::ALL {
        let config = Config::defaults(environment);
        assert_eq!(config.environment, environment);
        assert!(config.warnings().is_empty(), "{environment}: {:?}", config.warnings());
        assert!(!config.kafka.enabled && !config.blockchain.enabled);
    }
    let development = Config::defaults(Environment::Development);
    assert_eq!((development.api.bind.to_string().as_str(), development.network.p2p_port), ("127.0.0.1:8080", 4001));
    assert_eq!((development.logging.level.as_str(), development.metrics.enabled), ("debug", false));
    assert_eq!(development.network.listen(), ["/ip4/127.0.0.1/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/4001"]);
    assert_eq!(development.node.key_file, Path::new("data/development/node.key"));
    let production = Config::defaults(Environment::Production);
    assert_eq!((production.logging.level.as_str(), production.metrics.enabled), ("warn", true));
    assert_eq!(production.network.listen_address.to_string(), "0.0.0.0");
    assert_eq!(Config::defaults(Environment::Staging).logging.level, "info");
}

#[test]
fn a_later_layer_wins_and_its_origin_is_known() {
    let file = File::new("[scheduler]\nwindow_ms = 300\ntick_ms = 60\nlease_secs = 70\n");
    let mut sources = Sources { file: Some(file.path()), ..Sources::default() };
    sources.variables =
        set(&[("CIRO__SCHEDULER__WINDOW_MS", "400"), ("CIRO__SCHEDULER__TICK_MS", "70"), ("HOME", "/")]);
    sources.flags = set(&[("scheduler.window_ms", "500")]);
    let (config, layered) = Config::load(&sources).unwrap();
    let scheduler = &config.scheduler;
    assert_eq!((scheduler.window_ms, scheduler.tick_ms, scheduler.lease_secs), (500, 70, 70));
    assert_eq!(scheduler.offline_after_ms, 4000);
    assert_eq!(layered.origin("scheduler.window_ms"), Origin::Flag("--set scheduler.window_ms".into()));
    assert_eq!(layered.origin("scheduler.tick_ms"), Origin::Variable("CIRO__SCHEDULER__TICK_MS".into()));
    assert_eq!(layered.origin("scheduler.lease_secs"), Origin::File { path: file.path(), line: 4 });
    assert_eq!(layered.origin("scheduler.offline_after_ms"), Origin::Default);
}

#[test]
fn the_environment_of_the_strongest_layer_chooses_the_defaults() {
    let file = File::new("environment = \"staging\"\n");
    let mut sources = Sources { file: Some(file.path()), ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().0.logging.level, "info");
    sources.variables = set(&[("CIRO__ENVIRONMENT", "production")]);
    assert_eq!(Config::load(&sources).unwrap().0.logging.level, "warn");
    sources.environment = Some(Environment::Development);
    assert_eq!(Config::load(&sources).unwrap().0.logging.level, "debug");
}

#[test]
fn lists_are_comma_separated_or_literal() {
    for text in ["a:1, b:2", "[\"a:1\", \"b:2\"]"] {
        let (config, _) = load_flags(&[("kafka.bootstrap_servers", text)]).unwrap();
        assert_eq!(config.kafka.bootstrap_servers, ["a:1", "b:2"]);
    }
    assert!(load_flags(&[("kafka.bootstrap_servers", "")]).unwrap().0.kafka.bootstrap_servers.is_empty());
}

#[test]
fn unknown_keys_are_refused_with_line_and_nearest_key() {
    let problems = refused("databse_url = \"\"\nnetwork = 5\n\n[scheduler]\nwindow = 1\n[nonsense]\nabc_def = 1\n");
    assert!(problems.contains("1: unknown key databse_url; did you mean database_url?"), "{problems}");
    assert!(problems.contains("2: network is a section: write [network] and its keys below"), "{problems}");
    assert!(problems.contains("5: unknown key scheduler.window; did you mean scheduler.window_ms?"), "{problems}");
    assert!(problems.contains("unknown key nonsense; `ciro-coordinator generate-config`"), "{problems}");
    assert_eq!(refused("p2p_port = 4001\n"), "1: unknown key p2p_port; did you mean network.p2p_port?");
}

#[test]
fn unknown_variables_and_flags_are_refused_too() {
    let variables = set(&[("CIRO__NETWORK__P2P_PROT", "1")]);
    let error = Config::load(&Sources { variables, ..Sources::default() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "variable CIRO__NETWORK__P2P_PROT: unknown key network.p2p_prot; did you mean network.p2p_port?"
    );
    let error = load_flags(&[("api.bnd", "x")]).unwrap_err();
    assert_eq!(error.to_string(), "flag --set api.bnd: unknown key api.bnd; did you mean api.bind?");
}

#[test]
fn bad_values_are_refused_with_what_would_be_right() {
    let cases = [
        ("[network]\np2p_port = 70000", "2: network.p2p_port = 70000: expected a whole number from 0 to 65535"),
        ("[network]\np2p_port = \"4001\"", "2: network.p2p_port = \"4001\": expected a whole number from 0 to 65535"),
        ("[network]\ngossip_enabled = 1", "2: network.gossip_enabled = 1: expected true or false"),
        (
            "[api]\nbind = \"8080\"",
            "2: api.bind = \"8080\": expected an IP address and a port, e.g. \"127.0.0.1:8080\"",
        ),
        ("[logging]\nlevel = \"loud\"", "expected error, warn, info, debug or trace"),
        ("[logging]\nformat = \"xml\"", "expected text or json"),
        ("environment = \"prod\"", "expected development, staging, production or test"),
        ("[cluster]\ninitial_members = [\"10.0.0.1:4001\"]", "\"10.0.0.1:4001\": expected a multiaddr with /p2p/"),
        ("[network]\nexternal_addresses = \"x\"", "expected a list, e.g. [\"a\", \"b\"]"),
        ("[kafka]\nbootstrap_servers = [\"localhost\"]", "\"localhost\": expected host:port"),
        ("[blockchain]\njob_manager_address = \"bf02\"", "expected 0x and 1 to 64 hex digits"),
        ("[node]\ndata_dir = \"\"", "must not be empty"),
    ];
    for (text, expected) in cases {
        let problems = refused(text);
        assert!(problems.contains(expected), "{text:?} gave {problems:?}");
    }
    assert!(refused("a = \nb = 1").starts_with("1: not valid TOML: "), "{}", refused("a = \nb = 1"));
    let missing = Sources { file: Some("/nowhere/c.toml".into()), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().starts_with("/nowhere/c.toml: can not be read: "));
}

#[test]
fn combinations_that_can_not_work_are_refused() {
    let twice = format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER},/ip4/10.0.0.2/tcp/1/p2p/{PEER}");
    let cases: [(&[(&str, &str)], &str); 11] = [
        (
            &[("network.p2p_port", "8080")],
            "network.p2p_port: is 8080, and so is the port of api.bind; they must differ",
        ),
        (&[("environment", "production"), ("api.bind", "127.0.0.1:0")], "api.bind: port 0 (any free one) is for"),
        (&[("environment", "staging"), ("network.p2p_port", "0")], "network.p2p_port: port 0 (any free one) is for"),
        (&[("cluster.election_min_ms", "150")], "at least twice cluster.heartbeat_ms"),
        (&[("cluster.election_max_ms", "300")], "must be greater than election_min_ms (300)"),
        (&[("scheduler.lease_secs", "3")], "a lease must outlast the silence"),
        (&[("cluster.initial_members", &twice)], "is there twice"),
        (&[("environment", "production"), ("network.mdns_enabled", "true")], "is for development and test"),
        (
            &[("network.discovery_enabled", "false"), ("network.mdns_enabled", "true")],
            "needs network.discovery_enabled",
        ),
        (&[("environment", "production"), ("blockchain.insecure_dev_key", "0x1")], "is for development; in production"),
        (&[("api.max_body_bytes", "200000")], "api.max_body_bytes: too small for a payload"),
    ];
    for (pairs, expected) in cases {
        let problems = load_flags(pairs).unwrap_err().to_string();
        assert!(problems.contains(expected), "{pairs:?} gave {problems:?}");
        assert!(problems.starts_with("flag --set "), "{problems:?} names where it was said");
    }
}

#[test]
fn combinations_that_do_work_are_accepted() {
    let (config, _) = load_flags(&[("api.bind", "127.0.0.1:0"), ("network.p2p_port", "0")]).unwrap();
    assert_eq!(config.network.p2p_port, 0);
    let (config, _) = load_flags(&[("network.discovery_enabled", "false")]).unwrap();
    assert!(!config.network.mdns_enabled, "mdns follows discovery unless it was asked for");
    let members = format!("/ip4/10.0.0.1/tcp/1/p2p/{PEER},/dns/b.example/udp/1/quic-v1/p2p/{OTHER}");
    assert_eq!(load_flags(&[("cluster.initial_members", &members)]).unwrap().0.cluster.initial_members.len(), 2);
}

#[test]
fn the_operator_is_warned_of_what_is_legal_but_unwise() {
    let (config, _) = load_flags(&[("api.bind", "0.0.0.0:8080"), ("network.gossip_enabled", "false")]).unwrap();
    let warnings = config.warnings().join("\n");
    assert!(warnings.contains("the API on 0.0.0.0:8080 is reachable from other machines"), "{warnings}");
    assert!(warnings.contains("awards no jobs"), "{warnings}");
    let hasty = |silence| load_flags(&[("scheduler.offline_after_ms", silence)]).unwrap().0.warnings().join("\n");
    assert!(hasty("2499").contains("lose their jobs when one is late"), "{}", hasty("2499"));
    assert_eq!(hasty("2500"), "");
}

#[test]
fn secrets_are_not_shown_anywhere() {
    let database = "postgresql://ciro:hunter2@db.example/ciro?password=hunter3";
    let rpc = "https://user:hunter4@rpc.example/v1/0123456789abcdef0123";
    let (config, layered) = load_flags(&[
        ("database_url", database),
        ("blockchain.rpc_url", rpc),
        ("blockchain.rpc_urls", "https://rpc.example/v2/0123456789abcdef0123,https://hunter7@rpc.example"),
        ("blockchain.insecure_dev_key", "0x0123456789abcdef"),
        ("kafka.security_protocol", "sasl_plaintext"),
        ("kafka.sasl_mechanism", "PLAIN"),
        ("kafka.sasl_username", "hunter5"),
        ("kafka.sasl_password", "hunter6"),
    ])
    .unwrap();
    assert_eq!(config.kafka.sasl_password.as_ref().unwrap().expose(), "hunter6");
    assert_eq!(config.database_url.as_ref().unwrap().expose(), database);
    for shown in [format!("{config:?}"), layered.print(), config.warnings().join(" ")] {
        for secret in ["hunter", "0123456789abcdef"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
    assert!(layered.print().contains("\"postgresql://***@db.example/ciro?***\""), "{}", layered.print());
    let refused = load_flags(&[("database_url", "mysql://ciro:hunter2@db/ciro")]).unwrap_err().to_string();
    assert!(refused.contains("expected postgresql://") && !refused.contains("hunter"), "{refused}");
}

#[test]
fn redaction_keeps_what_tells_hosts_apart() {
    assert_eq!(text::redacted("http://127.0.0.1:5050"), "http://127.0.0.1:5050");
    assert_eq!(text::redacted("postgres://a:p/w@x@h:1/d"), "postgres://***@h:1/d");
    assert_eq!(text::redacted("postgres://a:p?w@h/d"), "postgres://***");
    assert_eq!(text::redacted("postgres://a:p#w@h/d?x=y"), "postgres://***");
    assert_eq!(text::redacted("https://h/path?key=a@b"), "https://***");
    assert_eq!(text::redacted("not a url"), "***");
    assert_eq!(text::redacted(""), "");
}

#[test]
fn a_generated_file_says_exactly_the_defaults() {
    for environment in Environment::ALL {
        let text = generate(environment);
        let (config, layered) = load_file(&text).unwrap();
        assert_eq!(config, Config::defaults(environment));
        for key in KEYS {
            assert_ne!(layered.origin(key.path), Origin::Default, "{} is missing for {environment}", key.path);
        }
    }
}

#[test]
fn the_examples_in_the_repository_are_what_the_generator_writes() {
    for environment in Environment::ALL {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/{environment}.toml"));
        let fix = format!("run `ciro-coordinator generate-config --force {environment} config/{environment}.toml`");
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == generate(environment), "{} differs: {fix}", path.display());
    }
}

#[test]
fn the_printed_configuration_can_be_used_as_a_file() {
    let (config, layered) = load_flags(&[("scheduler.window_ms", "250")]).unwrap();
    let printed = layered.print();
    assert!(printed.contains("window_ms = 250  # flag --set scheduler.window_ms"), "{printed}");
    assert_eq!(load_file(&printed).unwrap().0, config);
}

#[test]
fn every_key_is_in_a_section_and_documented() {
    for key in KEYS {
        assert!(!key.doc.is_empty(), "{}", key.path);
        assert!(key.section().is_empty() || SECTIONS.iter().any(|(name, _)| *name == key.section()), "{}", key.path);
    }
}
