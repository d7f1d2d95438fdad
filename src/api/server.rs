//! Our own accept loop around warp, for what warp 0.4 has not: a bound on
//! connections, time limits, and a shutdown that ends.
//!
//! A connection waits for a permit before it is accepted, so at the bound the
//! kernel's queue holds newcomers. When the tasks are asked to stop, the
//! listener closes, connections finish the request they are at, and what is
//! still open after the drain time is cut.
//!
//! HTTP/1.1 only: over a plain connection no browser and hardly a program speaks
//! anything else, and a connection of HTTP/2 would need limits of its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::router::{self, Router};
use super::{Context, Limits};
use crate::tasks::Tasks;

/// Wait after a failed accept (no file descriptors left): it will not get better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    prepare(&stream, limits.stall);
    let service = TowerToHyperService::new(warp::service(routes));
    let mut connection = pin!(builder(&limits).serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tasks.token().cancelled() => None,
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

/// Has the kernel cut the connection when what was sent is not taken for as long as `stall`: hyper
/// has no limit on writing, and who stops reading an event stream would keep its place for ever.
fn prepare(stream: &TcpStream, stall: Duration) {
    let stall = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &stall) {
        tracing::debug!(%error, "no limit on unread answers");
    }
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
}

fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(256 << 10);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_reader_that_stops_reading_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_reader, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut stream = accepted.unwrap().0;
        prepare(&stream, Duration::from_secs(1));
        let start = clock::instant();
        let cut = tokio::time::timeout(Duration::from_secs(30), async {
            while stream.write_all(&[0; 1 << 16]).await.is_ok() {}
        });
        assert!(cut.await.is_ok(), "a connection that is not read is held");
        assert!(start.elapsed() >= Duration::from_millis(900), "a reader gets its time");
    }
}
