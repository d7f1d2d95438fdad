//! One child process: started, signalled, waited for, never left behind.
//!
//! Signals go only to a child that is not reaped yet, or to what descends from
//! it, so a pid the kernel gave out again is never hit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::until;

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    paused: bool,
}

impl Process {
    /// Starts `command`; what it says is appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), paused: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn paused(&self) -> bool {
        self.paused
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Fails the story if the process ended by itself.
    pub fn must_run(&mut self) {
        if let Some(status) = self.exited() {
            panic!("{} ended by itself: {status}\n{}", self.name, self.log_tail(30));
        }
    }

    pub fn signal(&mut self, signal: Signal) {
        self.must_run();
        kill(pid(self.child.id()), signal).unwrap();
        match signal {
            Signal::SIGSTOP => self.paused = true,
            Signal::SIGCONT => self.paused = false,
            _ => {}
        }
    }

    /// SIGKILL, to everything it started as well: the whole machine is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits until it ended by itself.
    pub async fn wait(mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        until(limit, &what, async || self.exited()).await
    }

    /// The file of what it said.
    pub fn log(&self) -> PathBuf {
        self.log.clone()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        format!("--- {}\n{}\n", self.log.display(), all[all.len().saturating_sub(lines)..].join("\n"))
    }

    fn end(&mut self) {
        if self.child.try_wait().ok().flatten().is_some() {
            return;
        }
        let below = descendants(self.child.id());
        let _ = self.child.kill();
        for id in below {
            let _ = kill(pid(id), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap())
}

/// Everything `root` started, and what those started.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| Some((id, parent(id)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let above = found[next];
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(id, _)| *id));
        next += 1;
    }
    found.split_off(1)
}

fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // `pid (name) state parent`, and the name may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
