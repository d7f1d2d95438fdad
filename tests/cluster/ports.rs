//! Ports nobody has, for TCP and UDP alike.
//!
//! Taken below the range from which the kernel serves `connect`, so that a node
//! that is down finds its port free when it comes back.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

pub fn free() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1_000 {
        let port = rand::random_range(20_000..32_000);
        let free = TcpListener::bind(("0.0.0.0", port)).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok();
        if free && given.insert(port) {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}
