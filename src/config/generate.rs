//! The complete, commented file of an environment.

use super::Environment;
use super::schema::{KEYS, Key, SECTIONS};

/// Every key with its meaning and the environment's default, as TOML.
pub fn generate(environment: Environment) -> String {
    let mut text = format!(
        "# ciro-coordinator, {environment}. Written by `ciro-coordinator generate-config {environment} PATH`.\n\
         #\n\
         # Every key is here with its default; a key that is left out has the same value.\n\
         # A variable CIRO__SECTION__KEY (CIRO__NETWORK__P2P_PORT=4002) wins over this file, a flag\n\
         # (--set network.p2p_port=4002) over both. Lists in variables and flags: comma separated.\n"
    );
    text += &section(environment, "");
    for (name, doc) in SECTIONS {
        text += &format!("\n# {doc}\n[{name}]\n");
        text += section(environment, name).trim_start_matches('\n');
    }
    text
}

fn section(environment: Environment, name: &str) -> String {
    KEYS.iter().filter(|key| key.section() == name).map(|key| entry(environment, key)).collect()
}

fn entry(environment: Environment, key: &Key) -> String {
    let doc: String = key.doc.lines().map(|line| format!("# {line}\n")).collect();
    format!("\n{doc}{} = {}\n", key.name(), key.default_in(environment))
}
