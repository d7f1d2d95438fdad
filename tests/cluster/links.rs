//! The wires between the processes, and how they are cut.
//!
//! Every node is reached through a relay of its own, whose address is all that
//! anybody is told. The relay sees by the socket which process dialled, so a
//! link has two ends, and each direction of it is cut by itself. A cut direction
//! carries nothing and says nothing: connections stay open and new ones do not get
//! through their handshake, as if packets were dropped. What was under way arrives
//! when it is mended. A link cut one way is one-way for what the processes say to
//! each other; the kernel's own acknowledgements are the relay's, and still pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ciro::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Node(usize),
    Worker(usize),
}

/// One direction of a link: who speaks, who listens.
type Way = (Party, Party);

#[derive(Clone)]
pub struct Links {
    cut: watch::Sender<BTreeSet<Way>>,
    pids: Arc<Mutex<BTreeMap<u32, Party>>>,
}

impl Links {
    pub fn new() -> Self {
        Self { cut: watch::Sender::default(), pids: Arc::default() }
    }

    /// Starts the relay in front of `node`, and returns its port.
    pub async fn relay(&self, node: usize, port: u16, tasks: &Tasks) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap().port();
        let (links, group) = (self.clone(), tasks.clone());
        tasks.spawn_until_stopped("relay", async move {
            loop {
                let (dialled, from) = listener.accept().await.unwrap();
                group.spawn_until_stopped("link", links.clone().carry(dialled, from, at, node, port));
            }
        });
        at
    }

    /// `party` is now the process `pid`.
    pub fn belongs(&self, pid: u32, party: Party) {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, party);
    }

    pub fn cut(&self, a: Party, b: Party) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// `listener` hears nothing of `speaker` any more.
    pub fn cut_one_way(&self, speaker: Party, listener: Party) {
        self.cut.send_modify(|cut| {
            let _ = cut.insert((speaker, listener));
        });
    }

    /// Mends the link, both ways.
    pub fn mend(&self, a: Party, b: Party) {
        self.cut.send_modify(|cut| cut.retain(|way| *way != (a, b) && *way != (b, a)));
    }

    pub fn mend_all(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }

    async fn carry(self, dialled: TcpStream, from: SocketAddr, at: u16, node: usize, port: u16) {
        // A process may dial before its starter has told us who it is.
        let mut dialler = None;
        for _ in 0..100 {
            dialler = self.who(from.port(), at);
            if dialler.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Some(dialler) = dialler else { return };
        let (there, back) = ((dialler, Party::Node(node)), (Party::Node(node), dialler));
        whole(&mut self.cut.subscribe(), there).await;
        let Ok(served) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        let _ = (dialled.set_nodelay(true), served.set_nodelay(true));
        let ((from_a, to_a), (from_b, to_b)) = (dialled.into_split(), served.into_split());
        let there = pump(from_a, to_b, there, self.cut.subscribe());
        let back = pump(from_b, to_a, back, self.cut.subscribe());
        tokio::join!(there, back);
    }

    /// Whose socket is connected from `local` to `remote`.
    fn who(&self, local: u16, remote: u16) -> Option<Party> {
        let socket = format!("socket:[{}]", inode(local, remote)?);
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pids.into_iter().find(|(pid, _)| has(*pid, &socket)).map(|(_, party)| party)
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: Way,
    mut cut: watch::Receiver<BTreeSet<Way>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        whole(&mut cut, way).await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

/// Waits until that direction is not cut.
async fn whole(cut: &mut watch::Receiver<BTreeSet<Way>>, way: Way) {
    let _ = cut.wait_for(|cut| !cut.contains(&way)).await;
}

/// The socket at `local` that is connected to `remote`, both on the loopback.
fn inode(local: u16, remote: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let ends = (format!("0100007F:{local:04X}"), format!("0100007F:{remote:04X}"));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.len() > 9 && (fields[1], fields[2]) == (ends.0.as_str(), ends.1.as_str())).then(|| fields[9].to_owned())
    })
}

fn has(pid: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.to_str() == Some(socket)))
}
