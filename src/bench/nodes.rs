//! Nodes that a bench starts itself: processes of this same program, with their
//! data in a directory that is removed afterwards.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::clock;

/// A directory, removed with everything in it.
pub(super) struct Place(pub PathBuf);

impl Place {
    /// `what` is in its name.
    pub(super) fn new(what: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ciro-bench-{what}-{}", clock::uuid()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The system clears its temporary directory, if we can not.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A node with a key and ports of its own.
pub(super) struct Node {
    pub id: String,
    /// A multiaddr that ends with the id.
    pub address: String,
    pub data: PathBuf,
    pub log: PathBuf,
    p2p: u16,
    api: u16,
}

impl Node {
    pub(super) fn new(place: &Path, number: usize) -> anyhow::Result<Self> {
        let data = place.join(format!("node-{number}"));
        let id = run_to_end(program()?.arg("identity").arg("--data-dir").arg(&data))?.trim().to_owned();
        let (p2p, api) = (free_port()?, free_port()?);
        let address = format!("/ip4/127.0.0.1/udp/{p2p}/quic-v1/p2p/{id}");
        Ok(Self { id, address, data, log: place.join(format!("log-{number}")), p2p, api })
    }

    /// Where it answers.
    pub(super) fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.api)
    }

    pub(super) fn start(&self, flags: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Running> {
        let log = fs::File::create(&self.log)?;
        let mut command = program()?;
        command.arg("start").args(flags).envs(variables.iter().copied());
        command.args(["--api-bind", &format!("127.0.0.1:{}", self.api), "--p2p-port", &self.p2p.to_string()]);
        command.arg("--data-dir").arg(&self.data).stdout(log.try_clone()?).stderr(log);
        Ok(Running(command.spawn().context("start a node")?))
    }
}

/// A process that ends with the bench.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// This program, without what its environment says of other nodes.
pub(super) fn program() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CIRO_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    Ok(command)
}

/// What it printed; it is an error if it failed.
pub(super) fn run_to_end(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Free for TCP and UDP a moment ago.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
