//! A client that reads over one connection of its own, and does nothing else.
//!
//! Where an answer takes a node some tens of microseconds, a general HTTP client takes as long again on the same
//! cores, and half of what is measured would be the measure.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hyper::body::Body as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::tasks::Tasks;

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Reader {
    /// Host and port.
    node: String,
    connection: Option<SendRequest<String>>,
    tasks: Tasks,
}

impl Reader {
    /// `node` as `http://host:port`.
    pub(super) fn new(node: &str, tasks: &Tasks) -> anyhow::Result<Self> {
        let uri: Uri = node.parse().with_context(|| format!("{node} is no URL"))?;
        ensure!(uri.scheme_str() == Some("http"), "{node}: reads are measured over plain http");
        let host = uri.host().with_context(|| format!("{node} names no host"))?;
        let node = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self { node, connection: None, tasks: tasks.clone() })
    }

    /// Reads `path` and throws the answer away, whole.
    pub(super) async fn read(&mut self, path: &str) -> Result<(), String> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(path)).await;
        let outcome = answer.unwrap_or_else(|_| Err(format!("{} did not answer within {TIMEOUT:?}", self.node)));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(&mut self, path: &str) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.node);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| told(&error))?,
        };
        let request = Request::get(path).header(header::HOST, &self.node).body(String::new());
        let request = request.map_err(|error| told(&error))?;
        connection.ready().await.map_err(|error| told(&error))?;
        let answer = connection.send_request(request).await.map_err(|error| told(&error))?;
        let status = answer.status();
        let mut body = answer.into_body();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            frame.map_err(|error| told(&error))?;
        }
        if !status.is_success() {
            return Err(told(&status));
        }
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<String>> {
        let stream = TcpStream::connect(&self.node).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn_until_stopped("bench connection", async move {
            // Whoever asks next is told of it.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
