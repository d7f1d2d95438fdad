//! `ciro-coordinator dev-broker` as a process of a story, and the orders it takes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use tempfile::TempDir;

use crate::process::Process;
use crate::programs::{clean, coordinator};
use crate::{secs, until};

pub struct DevBroker {
    pub bootstrap: String,
    orders: BufReader<TcpStream>,
    process: Process,
    _dir: TempDir,
}

impl DevBroker {
    /// With these topics, each with so many partitions.
    pub async fn start(topics: &[(&str, u32)]) -> Self {
        let dir = tempfile::Builder::new().prefix("ciro-broker-").tempdir().unwrap();
        let file = dir.path().join("address");
        let mut command = clean(coordinator());
        command.arg("dev-broker").arg("--address-file").arg(&file);
        for (topic, partitions) in topics {
            command.args(["--topic", &format!("{topic}:{partitions}")]);
        }
        let mut process = Process::spawn("dev-broker", &mut command, &dir.path().join("log"));
        let control = file.with_extension("control");
        let (bootstrap, control) = until(secs(20), "the dev-broker says where it is", async || {
            process.must_run();
            let text = |path| fs::read_to_string(path).ok().filter(|text: &String| !text.trim().is_empty());
            Some((text(&file)?, text(&control)?))
        })
        .await;
        let orders = TcpStream::connect(control.trim()).unwrap();
        Self { bootstrap: bootstrap.trim().to_owned(), orders: BufReader::new(orders), process, _dir: dir }
    }

    /// Does as it is told, or the story fails.
    pub fn order(&mut self, order: &str) {
        self.process.must_run();
        writeln!(self.orders.get_mut(), "{order}").unwrap();
        let mut answer = String::new();
        self.orders.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "{order}");
    }
}
