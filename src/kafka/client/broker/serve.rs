//! The broker's process: its files, its control port, its end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{Broker, Error};

/// Control connections at once. Beyond it new ones wait.
const CONNECTIONS_MAX: usize = 16;

/// Bytes of all orders on one connection.
const ORDERS_MAX: u64 = 1 << 20;

/// A control connection that says nothing for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// What a broker's process is told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Gets the bootstrap servers when they can be reached. Beside it `<file>.control` gets the control port's address.
    pub address_file: PathBuf,
    pub brokers: u16,
    /// Name and partitions.
    pub topics: Vec<(String, u32)>,
}

/// Runs the broker until SIGTERM or SIGINT.
///
/// # Errors
///
/// It can not listen, or can not write its addresses.
pub async fn serve(setup: Setup) -> Result<(), Error> {
    let io = |action: &str| {
        let action = action.to_owned();
        move |source| Error::Io { action, source }
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listen for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listen for signals"))?;
    let broker = Broker::start(setup.brokers, &setup.topics)?;
    let control = TcpListener::bind("127.0.0.1:0").await.map_err(io("bind control port"))?;
    let control_address = control.local_addr().map_err(io("bind control port"))?.to_string();
    let (file, control_file) = (&setup.address_file, beside(&setup.address_file, ".control"));
    // The control file first: who waits for the other finds both.
    for (path, text) in [(&control_file, &control_address), (file, &broker.bootstrap_servers())] {
        publish(path, text).map_err(io(&format!("write {}", path.display())))?;
    }
    info!(address = broker.bootstrap_servers(), control = control_address, "development broker is ready");

    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = control.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => connections.push(take_orders(stream, &broker)),
                Err(error) => {
                    warn!(%error, "control port");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = connections.next() => {}
        }
    }
    info!("development broker stops; what it had is gone");
    let _ = std::fs::remove_file(file);
    let _ = std::fs::remove_file(&control_file);
    Ok(())
}

/// Answers every line of one connection.
async fn take_orders(mut stream: TcpStream, broker: &Broker) {
    let (orders, mut answers) = stream.split();
    let mut lines = BufReader::new(orders.take(ORDERS_MAX)).lines();
    while let Ok(Ok(Some(line))) = tokio::time::timeout(SILENCE_MAX, lines.next_line()).await {
        if line.trim().is_empty() {
            continue;
        }
        let answer = match broker.obey(&line) {
            Ok(()) => "ok\n".to_owned(),
            Err(why) => format!("error: {why}\n"),
        };
        info!(order = line, answer = answer.trim_end(), "order");
        if answers.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Writes a file that is there whole or not at all.
fn publish(path: &Path, text: &str) -> io::Result<()> {
    let draft = beside(path, ".new");
    std::fs::write(&draft, format!("{text}\n"))?;
    std::fs::rename(&draft, path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    async fn address(path: &Path) -> String {
        let until = clock::instant() + Duration::from_secs(30);
        loop {
            if let Ok(text) = std::fs::read_to_string(path) {
                return text.trim_end().to_owned();
            }
            assert!(clock::instant() < until, "{} does not come", path.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn orders_are_taken_one_a_line_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kafka");
        let setup = Setup { address_file: file.clone(), brokers: 2, topics: vec![("jobs".to_owned(), 1)] };
        let story = async {
            assert!(address(&file).await.starts_with("127.0.0.1:"));
            let mut stream = TcpStream::connect(address(&beside(&file, ".control")).await).await.unwrap();
            let (answers, mut orders) = stream.split();
            let mut answers = BufReader::new(answers).lines();
            for (order, expected) in [
                ("rtt 5", "ok"),
                ("down 2", "ok"),
                ("leader jobs 0 1", "ok"),
                ("up", "ok"),
                ("topic more 2", "ok"),
                ("errors produce not_leader 3", "ok"),
                ("clear produce", "ok"),
                ("errors produce bad_luck 3", "error: \"bad_luck\" is none of disconnect, "),
                ("errors dance not_leader 3", "error: \"dance\" is none of produce, fetch, "),
                ("down five", "error: \"five\" is no number"),
                ("dance", "error: expected rtt, down, up, "),
            ] {
                orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
                let answer = answers.next_line().await.unwrap().unwrap();
                assert!(answer.starts_with(expected), "{order}: {answer}");
            }
        };
        tokio::select! {
            ended = serve(setup) => panic!("{ended:?}"),
            () = story => {}
        }
    }
}
