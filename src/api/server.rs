//! Our own accept loop around warp, for what warp 0.4 has not: a bound on
//! connections, time limits, and a shutdown that ends.
//!
//! A connection waits for a permit before it is accepted, so at the bound the
//! kernel's queue holds newcomers. When the tasks are asked to stop, the
//! listener closes, connections finish the request they are at, and what is
//! still open after the drain time is cut.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use warp::filters::BoxedFilter;
use warp::http::Request;
use warp::reply::Response;

use super::router::{self, Router};
use super::{Context, Limits};
use crate::tasks::Tasks;

/// Wait after a failed accept (no file descriptors left): it will not get better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Streams of one HTTP/2 connection.
const H2_STREAMS: u32 = 128;

/// Serves the API until `tasks` are asked to stop. Connections are tasks of the same
/// group: join it to wait for them.
pub async fn serve(listener: TcpListener, context: Context, tasks: Tasks) {
    let limits = context.limits.clone();
    let routes = router::filter(Arc::new(Router::new(context, tasks.clone())));
    accept(&listener, &routes, &limits, &tasks).await;
}

async fn accept(listener: &TcpListener, routes: &BoxedFilter<(Response,)>, limits: &Limits, tasks: &Tasks) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let stopped = tasks.token().cancelled();
    let mut stopped = pin!(stopped);
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stopped => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, routes.clone(), limits.clone(), tasks.clone(), permit);
                tasks.spawn("api connection", connection);
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end, or to the end of the drain time.
async fn serve_connection(
    stream: TcpStream,
    routes: BoxedFilter<(Response,)>,
    limits: Limits,
    tasks: Tasks,
    permit: Option<OwnedSemaphorePermit>,
) {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let builder = builder(&limits);
    let heard = CancellationToken::new();
    let service = Announced { inner: TowerToHyperService::new(warp::service(routes)), heard: heard.clone() };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tasks.token().cancelled() => None,
        () = silence(&heard, limits.header_timeout) => return,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.drain, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broke");
    }
    drop(permit);
}

/// Completes when no request came within `limit`. Hyper's own limit begins only when it
/// has seen which version of HTTP is spoken.
async fn silence(heard: &CancellationToken, limit: Duration) {
    if tokio::time::timeout(limit, heard.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// A service that tells when its first request comes.
struct Announced<S> {
    inner: S,
    heard: CancellationToken,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Announced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.heard.cancel();
        self.inner.call(request)
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(256 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout);
    builder
}
