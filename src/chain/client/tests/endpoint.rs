//! An endpoint that answers as it is told, and remembers what it was asked.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::tasks::Tasks;

/// What an endpoint does with a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Result(Value),
    Status(u16, &'static str),
    /// The connection ends once the request was read.
    Drop,
    Hang,
    /// So many bytes of a JSON text that never ends.
    Flood(usize),
    Text(&'static str),
}

pub(super) struct Endpoint {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// `answer`: by method.
    pub(super) async fn start(tasks: &Tasks, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://user:hunter2@{}/rpc/0123456789abcdef", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let (answer, noted, group) = (Arc::new(answer), Arc::clone(&asked), tasks.clone());
        tasks.spawn_until_stopped("endpoint", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
                group.spawn_until_stopped("connection", async move {
                    // A client that went away is what some tests are about.
                    let _ = serve(stream, &*answer, &noted).await;
                });
            }
        });
        Self { url, asked }
    }

    /// The methods it was asked for, oldest first.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == method).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(impl Fn(&str) -> Answer + ?Sized),
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    loop {
        let body = request(&mut stream).await?;
        let method = body["method"].as_str().unwrap_or_default().to_owned();
        asked.lock().unwrap().push(method.clone());
        let text = match answer(&method) {
            Answer::Result(result) => json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string(),
            Answer::Text(text) => text.to_owned(),
            Answer::Status(status, headers) => {
                let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                continue;
            }
            Answer::Drop => return Ok(()),
            Answer::Hang => return std::future::pending().await,
            Answer::Flood(bytes) => {
                let head = format!("HTTP/1.1 200 x\r\ncontent-length: {bytes}\r\n\r\n\"");
                stream.write_all(head.as_bytes()).await?;
                let chunk = vec![b'x'; 1 << 16];
                for _ in 0..bytes / chunk.len() {
                    stream.write_all(&chunk).await?;
                }
                return Ok(());
            }
        };
        let head = format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        stream.write_all(head.as_bytes()).await?;
    }
}

async fn request(stream: &mut TcpStream) -> std::io::Result<Value> {
    let mut bytes = vec![];
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let length: usize = length.unwrap_or_default();
            if bytes.len() >= end + 4 + length {
                return Ok(serde_json::from_slice(&bytes[end + 4..end + 4 + length]).unwrap_or_default());
            }
        }
        let read = stream.read_buf(&mut bytes).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
