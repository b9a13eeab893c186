//! A TCP relay in user space that plays a network: delay, jitter, a rate, stalls and cuts.
//!
//! Bytes wait in a queue with the time they are due, so any number may be under way at once; a chunk costs
//! no timer of its own. The rate belongs to the relay as to a physical link: all its connections share it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

use crate::noise::Noise;
use crate::task::{self, Task, reset_on_close};

/// Most bytes of one connection and direction under way at once; more than any bandwidth-delay product in use.
const IN_FLIGHT: usize = 64 << 20;
/// Room for one read; large, so that a gigabit costs few wake-ups.
const CHUNK: usize = 256 << 10;
/// Smallest room left in a buffer before a new one is taken.
const CHUNK_REST: usize = 16 << 10;
/// A queue never drains in less than this, so that a timer tick that comes late does not idle the link.
const QUEUE_TIME: Duration = Duration::from_millis(10);

/// What the network between the two ends is like. The default is a plain wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Added each way; a round trip takes twice this.
    pub delay: Duration,
    /// Added on top of the delay, at random between nothing and this; order is kept.
    pub jitter: Duration,
    /// Bytes a second in each direction, over all connections.
    pub rate: Option<u64>,
}

impl Link {
    /// A link with this round-trip time.
    pub fn round_trip(time: Duration) -> Self {
        Self { delay: time / 2, ..Self::default() }
    }

    /// The same link with a rate in bits a second.
    pub fn with_bits_per_second(self, bits: u64) -> Self {
        Self { rate: Some(bits / 8), ..self }
    }
}

/// Which way bytes go, seen from the client of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the target.
    Up = 0,
    /// From the target to the client.
    Down = 1,
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A reset to both ends.
    Reset,
    /// An orderly end to both.
    Close,
    /// Nothing: no byte and no end ever comes again, as when a cable is pulled.
    Silent,
}

/// What happens to new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admit {
    /// They are relayed.
    #[default]
    Relay,
    /// They are reset at once.
    Reset,
    /// They are accepted and never answered.
    Silent,
}

/// A running relay; it and its connections end when this is dropped.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _task: Task,
}

#[derive(Debug)]
struct Shared {
    settings: watch::Sender<Settings>,
    free_at: [Mutex<Option<Instant>>; 2],
    bytes: [AtomicU64; 2],
    open: AtomicUsize,
    accepted: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    target: SocketAddr,
    link: Link,
    stalled: [bool; 2],
    admit: Admit,
    cut: Option<Cut>,
    cuts: u64,
}

impl Relay {
    /// Relays a free port of 127.0.0.1 to `target`.
    pub async fn start(target: SocketAddr, link: Link) -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), target, link).await
    }

    /// Relays `listen` to `target`.
    pub async fn start_on(listen: SocketAddr, target: SocketAddr, link: Link) -> io::Result<Self> {
        let (listener, addr) = task::listen_on(listen)?;
        let settings = Settings { target, link, stalled: [false; 2], admit: Admit::Relay, cut: None, cuts: 0 };
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(settings),
            free_at: [Mutex::new(None), Mutex::new(None)],
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
            open: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
        });
        let task = task::spawn(run(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, _task: task })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the link; bytes already under way keep their times.
    pub fn set_link(&self, link: Link) {
        self.shared.settings.send_modify(|settings| settings.link = link);
    }

    /// Changes where new connections go.
    pub fn set_target(&self, target: SocketAddr) {
        self.shared.settings.send_modify(|settings| settings.target = target);
    }

    /// Changes what happens to new connections.
    pub fn set_admit(&self, admit: Admit) {
        self.shared.settings.send_modify(|settings| settings.admit = admit);
    }

    /// Holds all bytes of one direction back.
    pub fn stall(&self, direction: Direction) {
        self.shared.settings.send_modify(|settings| settings.stalled[direction as usize] = true);
    }

    /// Holds all bytes of both directions back.
    pub fn stall_both(&self) {
        self.shared.settings.send_modify(|settings| settings.stalled = [true; 2]);
    }

    /// Lets bytes pass again, both ways.
    pub fn resume(&self) {
        self.shared.settings.send_modify(|settings| settings.stalled = [false; 2]);
    }

    /// Ends the connections there are now; later ones are not touched.
    pub fn cut(&self, cut: Cut) {
        self.shared.settings.send_modify(|settings| {
            settings.cut = Some(cut);
            settings.cuts += 1;
        });
    }

    /// Connections being relayed now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes delivered in one direction since the start.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.bytes[direction as usize].load(Ordering::Relaxed)
    }
}

impl Shared {
    fn link(&self) -> Link {
        self.settings.borrow().link
    }

    async fn until_flowing(&self, direction: Direction) {
        let mut settings = self.settings.subscribe();
        // The sender lives as long as `self`, so this only ends when bytes may flow.
        let _ = settings.wait_for(|settings| !settings.stalled[direction as usize]).await;
    }

    fn is_stalled(&self, direction: Direction) -> bool {
        self.settings.borrow().stalled[direction as usize]
    }

    /// Waits until the link's own queue has room, so that a sender feels the rate as back-pressure.
    async fn until_room(&self, direction: Direction) {
        let now = Instant::now();
        let free_at = *lock(&self.free_at[direction as usize]);
        let Some(free_at) = free_at else { return };
        if self.link().rate.is_some() && free_at.saturating_duration_since(now) > QUEUE_TIME {
            sleep_until((free_at - QUEUE_TIME / 2).into()).await;
        }
    }

    /// When `length` bytes that arrive now have left the link.
    fn departure(&self, direction: Direction, length: usize) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.link().rate else {
            return now;
        };
        let mut free_at = lock(&self.free_at[direction as usize]);
        let start = free_at.map_or(now, |at| at.max(now));
        let end = start + Duration::from_secs_f64(length as f64 / rate.max(1) as f64);
        *free_at = Some(end);
        end
    }
}

async fn run(listener: TcpListener, shared: Arc<Shared>) {
    task::serve(listener, move |client, _| {
        let shared = Arc::clone(&shared);
        let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
        async move {
            let settings = *shared.settings.borrow();
            match settings.admit {
                Admit::Relay => carry(&shared, client, settings, number).await,
                Admit::Reset => reset_on_close(&client),
                Admit::Silent => std::future::pending().await,
            }
        }
    })
    .await;
}

/// Relays one connection until both directions have ended, one has failed, or it is cut.
async fn carry(shared: &Shared, client: TcpStream, settings: Settings, number: u64) {
    let mut watched = shared.settings.subscribe();
    let Ok(server) = TcpStream::connect(settings.target).await else {
        reset_on_close(&client);
        return;
    };
    // Best effort: a socket that is already dead refuses the option.
    let _ = server.set_nodelay(true);
    shared.open.fetch_add(1, Ordering::Relaxed);
    let _open = Closing(&shared.open);
    let cut = tokio::select! {
        ended = async {
            tokio::try_join!(
                pump(shared, Direction::Up, &client, &server, number * 2),
                pump(shared, Direction::Down, &server, &client, number * 2 + 1),
            )
        } => if ended.is_ok() { Cut::Close } else { Cut::Reset },
        cut = async {
            watched.wait_for(|now| now.cuts != settings.cuts).await.ok().and_then(|now| now.cut)
        } => cut.unwrap_or(Cut::Close),
    };
    match cut {
        Cut::Reset => {
            reset_on_close(&client);
            reset_on_close(&server);
        }
        Cut::Close => {}
        Cut::Silent => std::future::pending().await,
    }
}

struct Closing<'a>(&'a AtomicUsize);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is under way in one direction of one connection.
#[derive(Default)]
struct Queue {
    pieces: Mutex<VecDeque<(Instant, Option<Bytes>)>>,
    held: AtomicUsize,
    more: Notify,
    less: Notify,
}

async fn pump(shared: &Shared, direction: Direction, from: &TcpStream, to: &TcpStream, seed: u64) -> io::Result<()> {
    let queue = Queue::default();
    tokio::try_join!(arrive(shared, direction, from, &queue, seed), leave(shared, direction, to, &queue))?;
    Ok(())
}

/// Reads what comes and queues it with the time it is due; `None` is the end.
async fn arrive(shared: &Shared, direction: Direction, from: &TcpStream, queue: &Queue, seed: u64) -> io::Result<()> {
    let mut noise = Noise::new(seed);
    let mut buffer = BytesMut::new();
    let mut last = Instant::now();
    loop {
        while queue.held.load(Ordering::Relaxed) >= IN_FLIGHT {
            queue.less.notified().await;
        }
        shared.until_room(direction).await;
        if shared.is_stalled(direction) {
            shared.until_flowing(direction).await;
        }
        let piece = read(from, &mut buffer, shared.link()).await?;
        let length = piece.as_ref().map_or(0, Bytes::len);
        let link = shared.link();
        let jitter = noise.below(u64::try_from(link.jitter.as_nanos()).unwrap_or(u64::MAX));
        last = last.max(shared.departure(direction, length) + link.delay + Duration::from_nanos(jitter));
        let ended = piece.is_none();
        queue.held.fetch_add(length, Ordering::Relaxed);
        lock(&queue.pieces).push_back((last, piece));
        queue.more.notify_one();
        if ended {
            return Ok(());
        }
    }
}

async fn read(from: &TcpStream, buffer: &mut BytesMut, link: Link) -> io::Result<Option<Bytes>> {
    if buffer.capacity() < CHUNK_REST {
        *buffer = BytesMut::with_capacity(CHUNK);
    }
    // About a millisecond's worth, so that connections that share the link take turns.
    let turn = link.rate.map_or(CHUNK, |rate| usize::try_from(rate / 1000).unwrap_or(CHUNK)).clamp(2048, CHUNK);
    loop {
        from.readable().await?;
        match from.try_read_buf(&mut (&mut *buffer).limit(turn)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(buffer.split().freeze())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes what is due.
async fn leave(shared: &Shared, direction: Direction, to: &TcpStream, queue: &Queue) -> io::Result<()> {
    loop {
        let next = lock(&queue.pieces).front().map(|(due, _)| *due);
        let Some(due) = next else {
            queue.more.notified().await;
            continue;
        };
        if due > Instant::now() {
            sleep_until(due.into()).await;
        }
        if shared.is_stalled(direction) {
            shared.until_flowing(direction).await;
        }
        let front = lock(&queue.pieces).pop_front();
        let Some((_, piece)) = front else { continue };
        let Some(piece) = piece else {
            return socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write).or_else(already_gone);
        };
        write(to, &piece).await?;
        queue.held.fetch_sub(piece.len(), Ordering::Relaxed);
        queue.less.notify_one();
        shared.bytes[direction as usize].fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

async fn write(to: &TcpStream, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match to.try_write(piece) {
            Ok(written) => piece = &piece[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn already_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
