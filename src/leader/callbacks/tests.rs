//! The duty, on a log of one node, and receivers that answer, refuse, hang, redirect and flood.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Callbacks, Settings, run};
use crate::clock;
use crate::consensus::Raft;
use crate::domain::callback::Called;
use crate::domain::command::Submit;
use crate::domain::job::{JobSpec, Source};
use crate::domain::{Command, Digest, JobId, sample};
use crate::egress::Authority;
use crate::egress::https::Https;
use crate::leader::{Reign, lone};
use crate::tasks::Tasks;

/// Anything these tests wait for takes less, on a machine shared with compilers too.
const LIMIT: Duration = Duration::from_secs(60);

/// A leader without duties.
struct Bench {
    reign: Reign,
    tasks: Tasks,
    _raft: Raft,
    _dir: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Bench {
    async fn new(allow_private: bool, max_age: Duration) -> Self {
        Self::trusting(allow_private, max_age, vec![]).await
    }

    async fn trusting(allow_private: bool, max_age: Duration, authorities: Vec<Authority>) -> Self {
        let (dir, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
        let (mut reign, raft) = lone::start(dir.path(), &tasks).await;
        let settings = Settings { network: "test-net".to_owned(), allow_private, max_age, key: None, authorities };
        reign.context.callbacks = Some(Callbacks::new(settings).unwrap());
        Self { reign, tasks, _raft: raft, _dir: dir }
    }

    /// A job that ends at once, and is told of at `url`.
    async fn ended(&self, n: u64, url: &str) {
        let cancel = Command::Cancel { job: job(n), reason: "no longer wanted".to_owned() };
        let client = &self.reign.context.client;
        for reply in client.submit_many(vec![submit(n, url), cancel], LIMIT).await.unwrap().replies {
            reply.unwrap();
        }
    }

    fn called(&self, n: u64) -> Option<Called> {
        let client = &self.reign.context.client;
        client.read(|state| state.job(job(n)).and_then(|job| job.callback.as_ref()?.called.clone()))
    }

    fn waiting(&self) -> usize {
        self.reign.context.client.read(|state| state.callbacks().len())
    }

    /// Runs the duty until `done`, then ends it where it is.
    async fn run_until(&self, what: &str, reign: &Reign, done: impl Fn() -> bool) {
        let begun = clock::instant();
        tokio::select! {
            () = run(reign.clone()) => panic!("the duty ended"),
            () = async {
                while !done() {
                    assert!(begun.elapsed() < LIMIT, "waited too long for {what}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
    }
}

fn job(n: u64) -> JobId {
    JobId::from_key("test", &n.to_string())
}

fn submit(n: u64, url: &str) -> Command {
    let spec = JobSpec { callback_url: Some(url.into()), ..sample::spec() };
    let fingerprint = Digest::of(&n.to_be_bytes());
    Command::Submit(Box::new(Submit {
        id: job(n),
        spec,
        payload: Some(b"in".to_vec()),
        fingerprint,
        source: Source::Api,
    }))
}

/// An HTTP server that answers by path and counts how often each was posted to.
#[derive(Clone)]
struct Receiver {
    address: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start(tasks: &Tasks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self { address: listener.local_addr().unwrap().to_string(), paths: Arc::default() };
        let (serving, group) = (receiver.clone(), tasks.clone());
        tasks.spawn_until_stopped("receiver", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                group.spawn_until_stopped("call", async move {
                    serving.serve(BufReader::new(stream)).await;
                });
            }
        });
        receiver
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn posts(&self, path: &str) -> usize {
        self.paths.lock().unwrap().iter().filter(|posted| *posted == path).count()
    }

    async fn serve(&self, mut stream: BufReader<TcpStream>) -> Option<()> {
        loop {
            let (mut line, mut length) = (String::new(), 0);
            stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
            let path = line.split(' ').nth(1)?.to_owned();
            while line.trim_end() != "" {
                line.clear();
                stream.read_line(&mut line).await.ok()?;
                if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = said.trim().parse().ok()?;
                }
            }
            stream.read_exact(&mut vec![0; length]).await.ok()?;
            self.paths.lock().unwrap().push(path.clone());
            let answer = match path.as_str() {
                "/hang" => std::future::pending().await,
                "/moved" => {
                    format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", self.url("/inside"))
                }
                "/busy" => "HTTP/1.1 429 Busy\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "/no" => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "/gone" => "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "/flood" => "HTTP/1.1 200 Yes\r\ncontent-length: 1000000000000\r\n\r\n".to_owned(),
                _ => "HTTP/1.1 204 Yes\r\n\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
            if path == "/flood" {
                loop {
                    stream.write_all(&[b'x'; 4_096]).await.ok()?;
                }
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn delivered(called: Option<Called>) -> bool {
    matches!(called, Some(Called::Delivered { .. }))
}

#[tokio::test]
async fn who_answers_is_told_while_others_hang_refuse_or_flood() {
    let bench = Bench::new(true, HOUR).await;
    let (receiver, hanging) = (Receiver::start(&bench.tasks).await, Receiver::start(&bench.tasks).await);
    for n in 0..20 {
        bench.ended(n, &hanging.url("/hang")).await;
    }
    for (n, path) in [(100, "/no"), (101, "/moved"), (102, "/flood"), (103, "/gone")] {
        bench.ended(n, &receiver.url(path)).await;
    }
    for n in 200..250 {
        bench.ended(n, &receiver.url("/fine")).await;
    }
    bench
        .run_until("all that can be told", &bench.reign, || {
            (200..250).all(|n| delivered(bench.called(n)))
                && delivered(bench.called(102))
                && bench.called(103).is_some()
                && ["/no", "/moved"].iter().all(|path| receiver.posts(path) > 0)
        })
        .await;
    assert_eq!(receiver.posts("/fine"), 50, "each once");
    assert_eq!(bench.called(103), Some(Called::GivenUp { tries: 1, code: "http_410".into() }));
    assert_eq!((bench.called(100), bench.called(101)), (None, None), "they are tried again");
    assert_eq!(receiver.posts("/inside"), 0, "no redirect is followed");
    assert!((1..=8).contains(&hanging.posts("/hang")), "{} at a time", hanging.posts("/hang"));
    assert_eq!(bench.waiting(), 22);
}

#[tokio::test]
async fn a_receiver_is_posted_to_by_https_if_its_authority_is_trusted() {
    let server = Https::start(b"").await;
    let stranger = Bench::new(true, Duration::from_secs(1)).await;
    stranger.ended(1, &server.url("localhost", "/done")).await;
    stranger.run_until("the end of it", &stranger.reign, || stranger.waiting() == 0).await;
    assert!(matches!(stranger.called(1), Some(Called::GivenUp { tries: 3, code }) if &*code == "unreachable"));
    assert_eq!(server.answered(), 0, "nothing was said to a server that nobody vouches for");

    let authority = Authority::from_pem(server.authority.as_bytes()).unwrap();
    let bench = Bench::trusting(true, HOUR, vec![authority]).await;
    bench.ended(2, &server.url("localhost", "/done")).await;
    // Its certificate names it otherwise.
    bench.ended(3, &server.url("127.0.0.1", "/done")).await;
    bench.run_until("a post", &bench.reign, || delivered(bench.called(2))).await;
    assert_eq!((server.answered(), bench.called(3)), (1, None));
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let bench = Bench::new(true, HOUR).await;
    let (busy, other) = (Receiver::start(&bench.tasks).await, Receiver::start(&bench.tasks).await);
    bench.ended(1, &busy.url("/busy")).await;
    bench.run_until("a first try", &bench.reign, || busy.posts("/busy") == 1).await;
    for n in 2..30 {
        bench.ended(n, &busy.url("/busy")).await;
        bench.ended(n + 100, &other.url("/fine")).await;
    }
    let told = || (2..30).all(|n| delivered(bench.called(n + 100)));
    bench.run_until("the others", &bench.reign, told).await;
    // The duty began anew, so it asked again what its predecessor had been told; a few at a time.
    assert!(busy.posts("/busy") <= 10, "{} posts although it asked for an hour", busy.posts("/busy"));
}

#[tokio::test]
async fn what_was_tried_in_vain_for_too_long_is_given_up_and_why_is_recorded() {
    let bench = Bench::new(true, Duration::from_secs(1)).await;
    let receiver = Receiver::start(&bench.tasks).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    bench.ended(1, &receiver.url("/no")).await;
    bench.ended(2, &closed).await;
    bench.run_until("the end of it", &bench.reign, || bench.waiting() == 0).await;
    let given_up = |n| match bench.called(n) {
        Some(Called::GivenUp { tries, code }) => (tries, code.into_string()),
        other => panic!("{n}: {other:?}"),
    };
    assert_eq!(given_up(1), (3, "http_500".to_owned()));
    assert_eq!(given_up(2), (3, "unreachable".to_owned()));
    assert_eq!(receiver.posts("/no"), 3);
}

#[tokio::test]
async fn private_addresses_are_not_posted_to_by_number_or_by_name() {
    let bench = Bench::new(false, HOUR).await;
    let receiver = Receiver::start(&bench.tasks).await;
    bench.ended(1, &receiver.url("/fine")).await;
    bench.ended(2, &receiver.url("/fine").replace("127.0.0.1", "localhost")).await;
    bench.ended(3, "http://[::ffff:169.254.169.254]/latest/meta-data").await;
    bench.run_until("an answer", &bench.reign, || bench.waiting() == 0).await;
    for n in 1..=3 {
        assert_eq!(bench.called(n), Some(Called::GivenUp { tries: 1, code: "forbidden_address".into() }), "{n}");
    }
    assert_eq!(receiver.posts("/fine"), 0);
}

#[tokio::test]
async fn a_deposed_leader_repeats_at_most_and_records_nothing() {
    let bench = Bench::new(true, HOUR).await;
    let receiver = Receiver::start(&bench.tasks).await;
    bench.ended(1, &receiver.url("/fine")).await;
    let deposed = Reign { number: bench.reign.number + 1, context: bench.reign.context.clone() };
    bench.run_until("its post", &deposed, || receiver.posts("/fine") == 1).await;
    assert_eq!((bench.called(1), bench.waiting()), (None, 1));
    bench.run_until("its successor", &bench.reign, || bench.waiting() == 0).await;
    assert!(delivered(bench.called(1)));
    assert_eq!(receiver.posts("/fine"), 2);
}
