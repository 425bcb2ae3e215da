//! Accepting TLS connections: handshakes run beside each other, in bounded number and time, and
//! a peer that fails one costs nothing else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{Identity, ServerTls, fingerprint};
use crate::Tasks;

/// Bounds on what is accepted.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections open at the same time, handshakes included. Further peers wait in the
    /// kernel's queue.
    pub connections: usize,
    /// Time for one handshake.
    pub handshake: Duration,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connects from.
    pub addr: SocketAddr,
    /// Who it is; `None` when it showed no certificate, which only [`super::ClientAuth::Optional`] allows.
    pub identity: Option<Arc<Identity>>,
    /// SHA-256 of its certificate, in hex.
    pub fingerprint: Option<Arc<str>>,
}

/// An accepted connection whose handshake is complete.
#[derive(Debug)]
pub struct Connection {
    io: TlsStream<TcpStream>,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// The other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the two ends agreed on HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.io.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    /// Fails once the connection was cut; whoever reads is woken by it.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Accepts connections until `tasks` stop or the stream is dropped. Cancelling `cut` ends every
/// open connection at once, whatever it is busy with.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    limits: AcceptLimits,
    tasks: &Tasks,
    cut: &CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(64);
    let (token, handshakes, cut) = (tasks.token(), tasks.clone(), cut.clone());
    tasks.spawn("accept", async move {
        let open = Arc::new(Semaphore::new(limits.connections));
        loop {
            let next = async {
                let permit = Arc::clone(&open).acquire_owned().await.ok()?;
                Some((listener.accept().await, permit))
            };
            let accepted = tokio::select! {
                () = token.cancelled() => break,
                () = sender.closed() => break,
                accepted = next => accepted,
            };
            let (socket, addr, permit) = match accepted {
                Some((Ok((socket, addr)), permit)) => (socket, addr, permit),
                Some((Err(error), _)) => {
                    // Out of file descriptors, or a peer that is gone already: not for ever.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                None => break,
            };
            let (acceptor, sender) = (TlsAcceptor::from(tls.current()), sender.clone());
            let cut = Box::pin(cut.clone().cancelled_owned());
            handshakes.spawn("handshake", async move {
                let done =
                    tokio::time::timeout(limits.handshake, handshake(acceptor, socket, addr));
                let result = done
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                match result {
                    Ok((io, peer)) => {
                        let _ = sender
                            .send(Ok(Connection {
                                io,
                                peer,
                                cut,
                                _permit: permit,
                            }))
                            .await;
                    }
                    Err(error) => {
                        metrics::counter!("muster_tls_handshake_failures_total").increment(1);
                        tracing::debug!(peer.addr = %addr, %error, "handshake failed");
                    }
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    addr: SocketAddr,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    socket.set_nodelay(true)?;
    let io = acceptor.accept(socket).await?;
    let leaf = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = match leaf {
        Some(leaf) => Peer {
            addr,
            identity: Some(Arc::new(
                Identity::from_certificate(leaf).map_err(io::Error::other)?,
            )),
            fingerprint: Some(fingerprint(leaf).into()),
        },
        None => Peer {
            addr,
            identity: None,
            fingerprint: None,
        },
    };
    Ok((io, peer))
}
