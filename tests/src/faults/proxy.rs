//! What a network does to a connection, on one machine: a TCP proxy between a child site and the
//! broker of its parent which holds bytes back, slows them down, or resets connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

/// How often a connection looks at what is wrong.
const LOOK: Duration = Duration::from_millis(10);
const BUFFER: usize = 16 * 1024;

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// No byte gets through and nobody is told. What was sent comes when it is over, as TCP sends
    /// it again.
    Silent,
    /// The same for what the child sends.
    SilentUp,
    /// The same for what the broker sends.
    SilentDown,
    /// Connections are reset, and new ones as well.
    Reset,
    /// So many bytes a second in each direction of each connection.
    Slow(u32),
    /// Everything comes so much later.
    Late(Duration),
}

impl Trouble {
    fn holds(self, way: Direction) -> bool {
        match self {
            Self::Silent => true,
            Self::SilentUp => way == Direction::Up,
            Self::SilentDown => way == Direction::Down,
            Self::None | Self::Reset | Self::Slow(_) | Self::Late(_) => false,
        }
    }

    /// How long so many bytes take.
    fn takes(self, count: usize) -> Duration {
        match self {
            Self::Slow(rate) => Duration::from_secs_f64(count as f64 / f64::from(rate.max(1))),
            Self::Late(by) => by,
            Self::None | Self::Silent | Self::SilentUp | Self::SilentDown | Self::Reset => {
                Duration::ZERO
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug, Default)]
struct Shared {
    trouble: Mutex<Trouble>,
    /// The number of connections that were made so far.
    made: AtomicU64,
    /// Bytes that went through, both ways.
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Shared {
    fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst) || self.trouble() == Trouble::Reset
    }
}

/// A proxy in front of one port of this machine, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// Starts one in front of a port of loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, to, &of_thread));
        Ok(Self { shared, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on this is wrong.
    pub fn set(&self, trouble: Trouble) {
        let held = self.shared.trouble.lock();
        *held.unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Connections that were made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// Bytes that went through so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn accept(listener: &TcpListener, to: u16, shared: &Arc<Shared>) {
    for child in listener.incoming() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(child) = child else { continue };
        if shared.trouble() == Trouble::Reset {
            reset(&child);
            continue;
        }
        shared.made.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else {
                return reset(&child);
            };
            carry_both(&child, &broker, &shared);
        });
    }
}

/// When it is dropped, the other end learns at once that the connection is gone.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn carry_both(child: &TcpStream, broker: &TcpStream, shared: &Shared) {
    thread::scope(|scope| {
        scope.spawn(|| carry(child, broker, Direction::Up, shared));
        carry(broker, child, Direction::Down, shared);
    });
}

/// Carries bytes one way until one end closes or everything is reset. An end that closes while
/// nothing gets through is not noticed by the other one, as it would be.
fn carry(mut from: &TcpStream, mut to: &TcpStream, way: Direction, shared: &Shared) {
    let mut buffer = vec![0; BUFFER];
    let _ = from.set_read_timeout(Some(LOOK));
    let _ = to.set_nodelay(true);
    let hold = || {
        while shared.trouble().holds(way) && !shared.is_over() {
            thread::sleep(LOOK);
        }
    };
    loop {
        hold();
        if shared.is_over() {
            reset(from);
            return reset(to);
        }
        let mut room = BUFFER;
        if let Trouble::Slow(rate) = shared.trouble() {
            // A tenth of a second's worth.
            room = (rate as usize / 10).clamp(1, BUFFER);
        }
        let count = match from.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if is_timeout(error.kind()) => continue,
            Err(_) => break,
        };
        thread::sleep(shared.trouble().takes(count));
        hold();
        if shared.is_over() || to.write_all(&buffer[..count]).is_err() {
            reset(from);
            return reset(to);
        }
        shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A proxy in front of who sends everything back, and a connection through it.
    fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut other = stream.try_clone().unwrap();
                    std::io::copy(&mut stream, &mut other)
                });
            }
        });
        let proxy = Proxy::start(port).unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        (proxy, stream)
    }

    fn comes_back(stream: &mut TcpStream, patience: Duration) -> std::io::Result<()> {
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.read_exact(&mut [0; 4])
    }

    #[test]
    fn what_is_held_back_comes_when_the_silence_is_over() {
        let (proxy, mut stream) = echo();
        for trouble in [Trouble::Silent, Trouble::SilentUp, Trouble::SilentDown] {
            proxy.set(trouble);
            stream.write_all(b"word").unwrap();
            let silent = comes_back(&mut stream, Duration::from_millis(200)).unwrap_err();
            assert!(is_timeout(silent.kind()), "{trouble:?}: {silent}");
            proxy.set(Trouble::None);
            comes_back(&mut stream, Duration::from_secs(5)).unwrap();
        }
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn what_is_slow_or_late_takes_its_time() {
        let (proxy, mut stream) = echo();
        for trouble in [Trouble::Slow(20), Trouble::Late(Duration::from_millis(150))] {
            proxy.set(trouble);
            let begin = Instant::now();
            stream.write_all(b"word").unwrap();
            comes_back(&mut stream, Duration::from_secs(5)).unwrap();
            assert!(begin.elapsed() >= Duration::from_millis(200), "{trouble:?}");
        }
    }

    #[test]
    fn a_reset_ends_connections_and_new_ones() {
        let (proxy, mut stream) = echo();
        stream.write_all(b"word").unwrap();
        comes_back(&mut stream, Duration::from_secs(5)).unwrap();
        proxy.set(Trouble::Reset);
        let ended = comes_back(&mut stream, Duration::from_secs(5)).unwrap_err();
        assert!(!is_timeout(ended.kind()), "{ended}");
        let other = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()));
        let ended = other.and_then(|mut it| comes_back(&mut it, Duration::from_secs(5)));
        assert!(!is_timeout(ended.unwrap_err().kind()));
    }
}
