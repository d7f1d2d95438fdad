//! Who is called back: an HTTP server that keeps what it was told, and misbehaves by path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ciro::tasks::Tasks;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One POST as it arrived.
#[derive(Clone, Debug)]
pub struct Told {
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub text: String,
    pub body: Value,
    /// What it was answered; 0: nothing.
    pub status: u16,
}

impl Told {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Answers by path: `/fine…` 200; `/flaky…` 503 as often as it was told, then 200; `/hang…` never.
#[derive(Clone)]
pub struct Receiver {
    pub address: String,
    told: Arc<Mutex<Vec<Told>>>,
    flaky: Arc<Mutex<u32>>,
}

impl Receiver {
    /// `flaky`: how often each event at `/flaky` is refused.
    pub async fn start(flaky: u32, tasks: &Tasks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let receiver = Self { address, told: Arc::default(), flaky: Arc::new(Mutex::new(flaky)) };
        let (serving, group) = (receiver.clone(), tasks.clone());
        tasks.spawn_until_stopped("receiver", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                group.spawn_until_stopped("call", async move { while_open(stream, &serving).await });
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was answered with 200, by path.
    pub fn taken(&self) -> BTreeMap<String, Vec<Told>> {
        let mut taken: BTreeMap<String, Vec<Told>> = BTreeMap::new();
        for told in self.told().into_iter().filter(|told| told.status == 200) {
            taken.entry(told.path.clone()).or_default().push(told);
        }
        taken
    }

    /// From now on nothing is refused.
    pub fn recover(&self) {
        *self.flaky.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    fn answer(&self, mut told: Told) -> u16 {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.iter().filter(|other| other.body["event_id"] == told.body["event_id"]).count();
        let flaky = *self.flaky.lock().unwrap_or_else(PoisonError::into_inner) as usize;
        told.status = match &told.path {
            path if path.starts_with("/hang") => 0,
            path if path.starts_with("/flaky") && before < flaky => 503,
            _ => 200,
        };
        let status = told.status;
        all.push(told);
        status
    }
}

async fn while_open(stream: TcpStream, receiver: &Receiver) {
    let mut stream = BufReader::new(stream);
    while let Some(told) = read(&mut stream).await {
        let status = receiver.answer(told);
        if status == 0 {
            return std::future::pending().await;
        }
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Told> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let path = line.strip_prefix("POST ")?.split(' ').next()?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut bytes = vec![0; headers.get("content-length")?.parse().ok().filter(|length| *length < 1 << 20)?];
    stream.read_exact(&mut bytes).await.ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let body = serde_json::from_str(&text).ok()?;
    Some(Told { path, headers, text, body, status: 0 })
}
