//! What can be done to a cluster, fault by fault.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::{Cluster, Node};
use crate::links::{Links, Party};
use crate::observer::Observer;
use crate::{oracle, secs};

impl Cluster {
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.take().expect("the node runs").kill();
    }

    pub fn pause(&mut self, node: usize) {
        self.nodes[node].process.as_mut().expect("the node runs").signal(Signal::SIGSTOP);
    }

    pub fn resume(&mut self, node: usize) {
        self.nodes[node].process.as_mut().expect("the node runs").signal(Signal::SIGCONT);
    }

    pub fn kill_worker(&mut self, worker: usize) {
        self.workers_died = true;
        self.workers[worker].process.take().expect("the worker runs").kill();
    }

    pub fn pause_worker(&mut self, worker: usize) {
        self.workers[worker].process.as_mut().expect("the worker runs").signal(Signal::SIGSTOP);
    }

    pub fn resume_worker(&mut self, worker: usize) {
        self.workers[worker].process.as_mut().expect("the worker runs").signal(Signal::SIGCONT);
    }

    /// Nothing passes between the two until [`Self::heal`].
    pub fn cut(&self, a: Party, b: Party) {
        self.links.as_ref().expect("started with links").cut(a, b);
    }

    /// `listener` hears nothing of `speaker` until the link is mended; the other way it is as it was.
    pub fn cut_one_way(&self, speaker: Party, listener: Party) {
        self.links.as_ref().expect("started with links").cut_one_way(speaker, listener);
    }

    /// Mends the link between the two, both ways.
    pub fn mend_link(&self, a: Party, b: Party) {
        self.links.as_ref().expect("started with links").mend(a, b);
    }

    /// Mends every link.
    pub fn mend(&self) {
        self.links.iter().for_each(Links::mend_all);
    }

    pub fn executions(&self, name: &str) -> usize {
        oracle::executions_by_name(&self.executions_file()).get(name).copied().unwrap_or(0)
    }

    /// Asks node `node` to stop, and waits until it has.
    pub async fn stop(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        process.signal(Signal::SIGTERM);
        let status = process.wait(secs(15)).await;
        assert!(status.success(), "a stop in good order ended with {status}");
    }

    /// Whether the node ended by itself, which the story then does not hold against it.
    pub fn forgive(&mut self, node: usize) -> bool {
        let ended = self.nodes[node].process.as_mut().is_some_and(|process| process.exited().is_some());
        if ended {
            self.nodes[node].process = None;
        }
        ended
    }

    pub(super) fn executions_file(&self) -> PathBuf {
        self.dir.path().join("executions")
    }

    /// In place of a node that does not run and is no member, a new one: with another key, and nothing in its directory.
    pub fn replace_node(&mut self, node: usize) {
        assert!(self.nodes[node].process.is_none() && self.nodes[node].absent, "node {node} runs, or will");
        self.nodes[node].wipe();
    }

    /// Starts a spare node with a token.
    pub fn join(&mut self, node: usize, token: &str) {
        self.nodes[node].invitation = Some(token.to_owned());
        self.launch(node);
    }

    /// Stops a node that is not a member any more, for good.
    pub async fn retire(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().expect("the node runs");
        process.signal(Signal::SIGTERM);
        process.wait(secs(15)).await;
        self.nodes[node].absent = true;
    }

    /// In place of every node, none of which may run, a new one: with another key, and nothing in its directory. What
    /// was observed so far is of another cluster.
    pub fn replace_nodes(&mut self) {
        for index in 0..self.nodes.len() {
            assert!(self.nodes[index].process.is_none(), "node {index} runs");
            let fresh = Node::prepare(self.dir.path(), self.nodes.len() + index);
            let api = self.nodes[index].api;
            self.nodes[index] = Node { api, ..fresh };
        }
        self.members = self.nodes.iter().map(Node::address).collect::<Vec<_>>().join(",");
        self.observer = Observer::start(&self.client, &self.tasks);
    }
}
