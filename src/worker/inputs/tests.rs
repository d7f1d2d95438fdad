//! Real servers and real files, honest and otherwise.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::domain::JobId;
use crate::egress::https::Https;
use crate::tasks::Tasks;

const BYTES: &[u8] = b"the bytes of an input";

/// Serves what `answer` says to each path, on a free port of this machine.
struct Server {
    port: u16,
    tasks: Tasks,
    asked: Arc<std::sync::atomic::AtomicUsize>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tasks, asked) = (Tasks::new(), Arc::<std::sync::atomic::AtomicUsize>::default());
        let (group, count) = (tasks.clone(), asked.clone());
        tasks.spawn_until_stopped("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                group.spawn_until_stopped("connection", async move {
                    // The client may go at any time.
                    let _ = serve(stream).await;
                });
            }
        });
        Self { port, tasks, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

async fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut line = String::from("x");
    while !line.trim().is_empty() {
        line.clear();
        stream.read_line(&mut line).await?;
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let sized = |bytes: &[u8], length: usize| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(), bytes].concat()
    };
    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let status = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    let answer = match path {
        "/good" => sized(BYTES, BYTES.len()),
        "/other" => sized(b"other bytes, as long.", BYTES.len()),
        "/short" => sized(&BYTES[..5], 5),
        "/torn" => sized(&BYTES[..5], BYTES.len()),
        "/long" => sized(&[7; 1_000], 1_000),
        "/endless" => return endless(stream).await,
        "/slow" => return trickle(stream).await,
        "/silent" => return std::future::pending().await,
        "/hop" => redirect("/good"),
        "/to-file" => redirect("file:///etc/passwd"),
        away if away.starts_with("/away?") => redirect(&away["/away?".len()..]),
        "/round" => redirect("/round"),
        "/gone" => status("410 Gone"),
        "/forbidden" => status("403 Forbidden"),
        "/broken" => status("500 Internal Server Error"),
        _ => status("404 Not Found"),
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Chunk after chunk, and never an end.
async fn endless(mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    loop {
        stream.write_all(b"5\r\nbytes\r\n").await?;
    }
}

/// A byte now and then: never idle, never done.
async fn trickle(mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BYTES.len()).as_bytes()).await?;
    for byte in BYTES {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

struct Bench {
    directory: TempDir,
    inputs: Inputs,
}

/// Takes everything from everywhere, below `roots` of its directory.
fn bench(change: impl FnOnce(&mut Policy)) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap().join("root");
    std::fs::create_dir(&root).unwrap();
    let mut policy = Policy {
        schemes: vec!["file".to_owned(), "http".to_owned()],
        roots: vec![root],
        roots_named: vec![directory.path().join("named")],
        allow_private: true,
        authorities: vec![],
        max_bytes: 1_000,
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(5),
        total: Duration::from_secs(10),
    };
    change(&mut policy);
    let shelf = Shelf::open(&directory.path().join("cache"), 1 << 20, Duration::from_secs(3_600)).unwrap();
    Bench { inputs: Inputs::new(policy, shelf).unwrap(), directory }
}

impl Bench {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    async fn bring(&self, uri: &str) -> Result<Vec<u8>, Failure> {
        self.bring_as(uri, Digest::of(BYTES), BYTES.len() as u64).await
    }

    async fn bring_as(&self, uri: &str, sha256: Digest, size: u64) -> Result<Vec<u8>, Failure> {
        let (_stop, mut stopped) = oneshot::channel();
        match self.inputs.bring(work(uri, sha256, size), &mut stopped).await {
            Ok(work) => {
                let pin = work.input_uri.unwrap().file.unwrap();
                assert!(work.timeout <= Duration::from_secs(30));
                Ok(load(&pin).await.unwrap().to_vec())
            }
            Err(Ended::Failed(failure)) => {
                assert_eq!(drafts(&self.path("cache")), 0, "nothing is left of what failed");
                Err(failure)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn code(&self, uri: &str) -> (&'static str, bool) {
        let failure = self.bring(uri).await.expect_err(uri);
        println!("{uri}: {failure:?}");
        (failure.code, failure.retryable)
    }
}

fn work(uri: &str, sha256: Digest, size: u64) -> Work {
    Work {
        key: (JobId([7; 16]), 1),
        kind: "script".to_owned(),
        input: Bytes::new(),
        input_uri: Some(Reference { uri: uri.to_owned(), size, file: None }),
        input_sha256: Some(sha256),
        timeout: Duration::from_secs(30),
    }
}

#[tokio::test]
async fn https_is_fetched_from_servers_that_somebody_trusted_vouches_for() {
    let server = Https::start(BYTES).await;
    let https = |policy: &mut Policy| policy.schemes = vec!["https".to_owned()];
    let stranger = bench(https);
    let (code, retryable) = stranger.code(&server.url("localhost", "/good")).await;
    assert_eq!((code, retryable, server.answered()), ("input_unreachable", true, 0), "nothing is asked of it");

    let trusting = bench(|policy| {
        https(policy);
        policy.authorities = vec![Authority::from_pem(server.authority.as_bytes()).unwrap()];
    });
    assert_eq!(trusting.bring(&server.url("localhost", "/good")).await.unwrap(), BYTES);
    let (code, _) = trusting.code(&server.url("127.0.0.1", "/good")).await;
    assert_eq!((code, server.answered()), ("input_unreachable", 1), "its certificate is of another name");
}

fn drafts(cache: &Path) -> usize {
    let all = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == "draft")).count()
}

#[tokio::test]
async fn an_input_is_fetched_once_and_compared_each_time() {
    let (server, bench) = (Server::start().await, bench(|_| {}));
    assert_eq!(bench.bring(&server.url("/good")).await.unwrap(), BYTES);
    assert_eq!(bench.bring(&server.url("/good")).await.unwrap(), BYTES, "it is here already");
    let asked = || server.asked.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(asked(), 1);
    assert_eq!(bench.code(&server.url("/forbidden")).await.0, "input_refused", "a digest is no key to it");
    assert_eq!(asked(), 2);
    // What the disk spoiled is fetched again.
    let cached = bench.path("cache").join(hex::encode(Digest::of(BYTES).0));
    std::fs::write(&cached, [0; BYTES.len()]).unwrap();
    assert_eq!(bench.bring(&server.url("/good")).await.unwrap(), BYTES);
    assert_eq!((asked(), std::fs::read(&cached).unwrap()), (3, BYTES.to_vec()));
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_not_taken() {
    let (server, bench) = (Server::start().await, bench(|_| {}));
    for path in ["/other", "/short", "/long", "/endless"] {
        assert_eq!(bench.code(&server.url(path)).await, ("input_mismatch", true), "{path}");
    }
    assert_eq!(bench.code(&server.url("/torn")).await, ("input_unreachable", true));
    let failure = bench.bring_as(&server.url("/good"), Digest([1; 32]), BYTES.len() as u64).await.unwrap_err();
    assert_eq!(failure.code, "input_mismatch");
    let failure = bench.bring_as(&server.url("/good"), Digest::of(BYTES), 1_001).await.unwrap_err();
    assert_eq!((failure.code, failure.retryable), ("input_too_large", true), "more than the operator allows");
}

#[tokio::test]
async fn without_a_size_the_digest_and_the_workers_bound_decide() {
    let server = Server::start().await;
    let bench = bench(|policy| policy.max_bytes = 100);
    let good = server.url("/good");
    for _ in 0..2 {
        assert_eq!(bench.bring_as(&good, Digest::of(BYTES), 0).await.unwrap(), BYTES);
    }
    assert_eq!(bench.bring_as(&good, Digest::of(b"else"), 0).await.unwrap_err().code, "input_mismatch");
    for path in ["/long", "/endless"] {
        let code = bench.bring_as(&server.url(path), Digest::of(BYTES), 0).await.unwrap_err().code;
        assert_eq!(code, "input_too_large", "{path}");
    }
    assert_eq!(bench.bring_as(&good, Digest::of(b""), 0).await.unwrap_err().code, "input_mismatch", "said to be empty");
}

#[tokio::test]
async fn what_a_server_says_decides_whether_to_try_again() {
    let (server, bench) = (Server::start().await, bench(|_| {}));
    assert_eq!(bench.code(&server.url("/nowhere")).await, ("input_not_found", false));
    assert_eq!(bench.code(&server.url("/gone")).await, ("input_not_found", false));
    assert_eq!(bench.code(&server.url("/forbidden")).await, ("input_refused", false));
    assert_eq!(bench.code(&server.url("/broken")).await, ("input_unreachable", true));
    assert_eq!(bench.code(&server.url("/round")).await, ("input_refused", false));
    assert_eq!(bench.code(&server.url("/to-file")).await, ("input_forbidden", true));
    assert_eq!(bench.code("http://no-such-host.invalid/").await, ("input_unreachable", true));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(bench.code(&format!("http://{closed}/")).await, ("input_unreachable", true));
}

#[tokio::test]
async fn a_server_that_is_slow_or_silent_does_not_hold_a_worker() {
    let server = Server::start().await;
    let hasty = bench(|policy| policy.total = Duration::from_millis(500));
    assert_eq!(hasty.code(&server.url("/slow")).await, ("input_unreachable", true));
    let patient = bench(|policy| policy.idle = Duration::from_secs(1));
    assert_eq!(patient.bring(&server.url("/slow")).await.unwrap(), BYTES, "slow is not silent");
    let bench =
        bench(|policy| (policy.connect, policy.idle) = (Duration::from_millis(200), Duration::from_millis(200)));
    assert_eq!(bench.code(&server.url("/silent")).await, ("input_unreachable", true));
}

#[tokio::test]
async fn an_order_to_stop_ends_a_fetch() {
    let (server, bench) = (Server::start().await, bench(|_| {}));
    let (stop, mut stopped) = oneshot::channel();
    let work = work(&server.url("/silent"), Digest::of(BYTES), BYTES.len() as u64);
    stop.send(Cause::Cancelled).unwrap();
    let ended = bench.inputs.bring(work, &mut stopped).await.unwrap_err();
    assert_eq!(ended, Ended::Failed(Failure::retryable("cancelled", "")));
}

#[tokio::test]
async fn a_client_does_not_make_a_worker_reach_into_its_own_network() {
    let (server, bench) = (Server::start().await, bench(|policy| policy.allow_private = false));
    let port = server.port;
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "0", "169.254.169.254"]
    {
        let uri = format!("http://{host}:{port}/good");
        assert_eq!(bench.code(&uri).await, ("input_forbidden", true), "{host}");
    }
    assert_eq!(server.asked.load(std::sync::atomic::Ordering::SeqCst), 0, "nobody connected");
}

#[tokio::test]
async fn a_redirect_to_this_machine_is_refused() {
    let (server, mut bench) = (Server::start().await, bench(|policy| policy.allow_private = false));
    let port = server.port;
    // A name that its owner made known to us as public, for the first step only.
    let first = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    bench.inputs.http = http::client(&bench.inputs.policy).resolve("public.example", first).build().unwrap();
    let public = format!("http://public.example:{port}");
    assert_eq!(bench.bring(&format!("{public}/hop")).await.unwrap(), BYTES, "from itself to itself");
    bench.inputs.shelf.discard(&Digest::of(BYTES));
    let before = server.asked.load(std::sync::atomic::Ordering::SeqCst);
    for host in ["127.0.0.1", "localhost"] {
        let uri = format!("{public}/away?http://{host}:{port}/good");
        assert_eq!(bench.code(&uri).await, ("input_forbidden", true), "{host}");
    }
    let after = server.asked.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(after, before + 2, "only the public name was asked");
}

#[tokio::test]
async fn a_scheme_that_is_off_is_refused() {
    let (server, bench) = (Server::start().await, bench(|policy| policy.schemes = vec!["https".to_owned()]));
    assert_eq!(bench.code(&server.url("/good")).await, ("input_forbidden", true));
    assert_eq!(bench.code("file:///etc/passwd").await, ("input_forbidden", true));
    assert_eq!(server.asked.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn files_are_fetched_only_from_below_the_roots() {
    let bench = bench(|_| {});
    std::fs::write(bench.path("root/good"), BYTES).unwrap();
    std::fs::write(bench.path("root/with space"), BYTES).unwrap();
    std::fs::write(bench.path("secret"), BYTES).unwrap();
    std::fs::create_dir(bench.path("root/directory")).unwrap();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(bench.path(to), bench.path(name)).unwrap();
    link("secret", "root/escape");
    link(".", "root/up");
    link("root/good", "root/inside");
    link("root", "named");
    link("root", "unnamed");
    nix::unistd::mkfifo(&bench.path("root/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let uri = |name: &str| format!("file://{}", bench.path(name).display());
    assert_eq!(bench.bring(&uri("root/good")).await.unwrap(), BYTES);
    bench.inputs.shelf.discard(&Digest::of(BYTES));
    assert_eq!(bench.bring(&uri("root/with%20space")).await.unwrap(), BYTES);
    bench.inputs.shelf.discard(&Digest::of(BYTES));
    assert_eq!(bench.bring(&uri("root/inside")).await.unwrap(), BYTES);
    bench.inputs.shelf.discard(&Digest::of(BYTES));
    assert_eq!(bench.bring(&uri("named/good")).await.unwrap(), BYTES, "the root as the operator named it");
    bench.inputs.shelf.discard(&Digest::of(BYTES));
    assert_eq!(bench.code(&uri("unnamed/good")).await.0, "input_forbidden", "it is not opened to see where it leads");

    let mut escapes = String::new();
    for name in
        ["secret", "root/escape", "root/up/secret", "root/../secret", "root/%2e%2e/secret", "nothing", "root-x/y"]
    {
        let (code, retryable) = bench.code(&uri(name)).await;
        write!(escapes, "{name}={code}/{retryable} ").unwrap();
    }
    assert_eq!(escapes.matches("=input_forbidden/true").count(), 7, "{escapes}");
    assert_eq!(bench.code(&uri("root/nothing")).await, ("input_not_found", false));
    assert_eq!(bench.code(&uri("root/directory")).await.0, "input_refused");
    assert_eq!(bench.code(&uri("root/pipe")).await.0, "input_refused");
    assert_eq!(bench.code("file://elsewhere/x").await, ("input_refused", false));
    std::fs::write(bench.path("root/good"), b"longer than it was said to be").unwrap();
    assert_eq!(bench.code(&uri("root/good")).await, ("input_mismatch", true));
}
