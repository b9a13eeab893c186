//! A client's TCP connection and a stream to its target, each direction ending on its own. What is cut off at one side
//! is cut off at the other: an end of file there would make a part look like the whole.
//!
//! Nothing is buffered while a pair is idle: a thread's scratch memory is read into, and only what the other side
//! did not take is kept. Much data between two TCP connections is not read at all, see `splice/kernel.rs`.

use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::connect::{BufferedDuplex, Io};
use crate::peer::PeerWatch;

#[cfg(target_os = "linux")]
mod kernel;

/// Other systems have no such call between two sockets: bytes are copied there.
#[cfg(not(target_os = "linux"))]
mod kernel {
    use super::{Context, Cut, Direction, Poll, TcpStream, io};

    /// There is none.
    pub(super) enum Pipe {}

    pub(super) fn carry(
        _: &TcpStream,
        _: &TcpStream,
        direction: &mut Direction,
        cx: &mut Context<'_>,
        _: fn(io::Error) -> Cut,
        _: fn(io::Error) -> Cut,
    ) -> Poll<Result<(), Cut>> {
        direction.large = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Read at once.
const SCRATCH: usize = 128 * 1024;
/// A read of so much says that there is more, and so many in a row say that it is a direction of bulk.
const LARGE: usize = SCRATCH / 2;
const LARGE_READS: u8 = 4;
/// Bytes a turn and direction; then others have theirs.
const BYTES_A_TURN: u64 = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How a pair ended.
#[derive(Debug)]
pub struct SpliceEnd {
    /// Bytes from the client to the target.
    pub inward: u64,
    /// Bytes from the target to the client.
    pub outward: u64,
    /// What cut it short; `None` when both directions came to their end, or the client left.
    pub cut: Option<Cut>,
}

/// What cut a pair short.
#[derive(Debug)]
pub enum Cut {
    /// The client's connection failed.
    Client(io::Error),
    /// The stream to the target failed.
    Target(io::Error),
}

/// Bytes of all pairs that share it, counted while they are carried.
#[derive(Debug, Default)]
pub struct Meter {
    inward: AtomicU64,
    outward: AtomicU64,
}

impl Meter {
    /// Bytes from clients to the target.
    #[must_use]
    pub fn inward(&self) -> u64 {
        self.inward.load(Ordering::Relaxed)
    }

    /// Bytes from the target to clients.
    #[must_use]
    pub fn outward(&self) -> u64 {
        self.outward.load(Ordering::Relaxed)
    }

    /// Counts bytes that were carried in another way.
    pub fn add(&self, inward: u64, outward: u64) {
        self.inward.fetch_add(inward, Ordering::Relaxed);
        self.outward.fetch_add(outward, Ordering::Relaxed);
    }
}

/// What was read of a client before there was a target for it.
#[derive(Debug)]
pub struct Opening {
    /// These bytes.
    pub bytes: Vec<u8>,
    /// A target that does not take them in this time takes nothing.
    pub within: Duration,
}

/// Carries bytes both ways until both directions have ended, the client has left, or one side failed. Who has not been
/// told the end yet then sees a reset, where the stream has one: an end of file would look like a whole answer, or a
/// whole question. A stream to a target that is no TCP connection is dropped without an end of its own.
pub async fn splice(client: TcpStream, target: Io) -> SpliceEnd {
    carry_both(client, None, target, None, || ()).await
}

/// [`splice`], with its bytes counted while it runs; `answered` is called once, when the client has been sent the
/// target's first bytes.
pub async fn splice_noting(client: TcpStream, target: Io, meter: Arc<Meter>, answered: impl FnMut()) -> SpliceEnd {
    carry_both(client, None, target, Some(meter), answered).await
}

/// [`splice_noting`], for a client that has said something already.
pub async fn splice_after(
    client: TcpStream,
    opening: Opening,
    target: Io,
    meter: Arc<Meter>,
    answered: impl FnMut(),
) -> SpliceEnd {
    carry_both(client, Some(opening), target, Some(meter), answered).await
}

async fn carry_both(
    client: TcpStream,
    opening: Option<Opening>,
    target: Io,
    meter: Option<Arc<Meter>>,
    mut answered: impl FnMut(),
) -> SpliceEnd {
    let tcp = target.plain_tcp().is_some();
    // Now: of one that has left, with something unread, the kernel has no address any more.
    let watch = PeerWatch::of(&client);
    let (said, within) = opening.map_or((Vec::new(), Duration::MAX), |opening| (opening.bytes, opening.within));
    let mut patience = Patience { bytes: said.len() as u64, within, timer: None };
    let mut pair = Pair {
        client,
        target,
        watch,
        ended: false,
        inward: Direction { tcp, kept: said, ..Direction::default() },
        outward: Direction { tcp, ..Direction::default() },
    };
    let cut = std::future::poll_fn(|cx| {
        let before = (pair.inward.bytes, pair.outward.bytes);
        let end = pair.poll(cx);
        if before.1 == 0 && pair.outward.bytes > 0 {
            answered();
        }
        if let Some(meter) = &meter {
            meter.add(pair.inward.bytes - before.0, pair.outward.bytes - before.1);
        }
        if end.is_pending() && patience.poll_lost(&pair.inward, cx).is_ready() {
            return Poll::Ready(Some(Cut::Target(io::ErrorKind::TimedOut.into())));
        }
        end
    })
    .await;
    // Where it was cut, whoever has not been told the end is told by the pair's drop.
    pair.ended = cut.is_none();
    if matches!(cut, Some(Cut::Target(_))) {
        refuse(&pair.client);
    }
    SpliceEnd { inward: pair.inward.bytes, outward: pair.outward.bytes, cut }
}

/// With a target that is to take an opening.
struct Patience {
    bytes: u64,
    within: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ready when the target has taken it for too long.
    fn poll_lost(&mut self, inward: &Direction, cx: &mut Context<'_>) -> Poll<()> {
        if inward.done || inward.bytes >= self.bytes {
            (self.bytes, self.timer) = (0, None);
            return Poll::Pending;
        }
        // Most take it at once.
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.within))).as_mut().poll(cx)
    }
}

/// A client whose target could not be reached sees a reset.
pub fn refuse(client: &TcpStream) {
    // Linger zero makes the close a reset.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}

/// A connection that was accepted and is not carried yet: dropped as it is, its client sees a reset, and no answer that
/// is empty.
#[derive(Debug)]
pub struct Unanswered(Option<TcpStream>);

impl Unanswered {
    /// One that was just accepted.
    #[must_use]
    pub fn new(client: TcpStream) -> Self {
        Self(Some(client))
    }

    /// Its target is there.
    ///
    /// # Panics
    /// Never: it is taken once.
    #[must_use]
    pub fn into_inner(mut self) -> TcpStream {
        self.0.take().expect("it is taken by value, so once")
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(client) = &self.0 {
            refuse(client);
        }
    }
}

#[derive(Default)]
struct Direction {
    bytes: u64,
    /// Read, and not taken yet, from `sent` on.
    kept: Vec<u8>,
    sent: usize,
    ended: bool,
    done: bool,
    /// Written, and perhaps still in a buffer of the receiver's.
    unflushed: bool,
    /// Both ends are TCP connections.
    tcp: bool,
    /// Large reads in a row.
    large: u8,
    /// Small ones in a row, of those that the kernel carries.
    #[cfg(target_os = "linux")]
    small: u8,
    /// What the kernel carries and the receiver has not taken yet.
    pipe: Option<kernel::Pipe>,
}

impl Direction {
    fn note_read(&mut self, bytes: usize) {
        self.large = if bytes < LARGE { 0 } else { self.large.saturating_add(1) };
    }

    /// Whether the kernel is to carry it, if it can.
    fn by_kernel(&self) -> bool {
        let can = cfg!(target_os = "linux") && self.tcp;
        self.pipe.is_some() || (can && self.large >= LARGE_READS && !self.ended && !self.has_kept())
    }

    fn keep(&mut self, rest: &[u8]) {
        self.kept.clear();
        self.kept.extend_from_slice(rest);
        self.sent = 0;
    }

    fn has_kept(&self) -> bool {
        self.sent < self.kept.len()
    }
}

struct Pair {
    client: TcpStream,
    target: Io,
    watch: PeerWatch,
    /// It came to an end of its own.
    ended: bool,
    /// Client to target.
    inward: Direction,
    /// Target to client.
    outward: Direction,
}

impl Drop for Pair {
    /// Cut in the middle, by whoever dropped it: neither side must take what it has for the whole.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if !self.outward.done {
            refuse(&self.client);
        }
        if !self.inward.done
            && let Some(target) = self.target.tcp()
        {
            refuse(target);
        }
    }
}

impl Pair {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Cut>> {
        if !self.inward.done
            && let Poll::Ready(Err(cut)) = self.poll_inward(cx)
        {
            // Why a target takes nothing more, reading from it tells.
            if !matches!(&cut, Cut::Target(error) if error.kind() == io::ErrorKind::BrokenPipe) {
                return Poll::Ready(Some(cut));
            }
            self.inward.done = true;
        }
        if !self.outward.done
            && let Poll::Ready(Err(cut)) = self.poll_outward(cx)
        {
            return Poll::Ready(Some(cut));
        }
        if self.inward.done && self.outward.done {
            return Poll::Ready(None);
        }
        // A client that has ended its half, which the target has, may have left: then nobody wants the answer.
        if self.inward.ended && self.inward.done {
            return self.watch.poll_gone(cx).map(|()| None);
        }
        Poll::Pending
    }

    fn poll_inward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Self { target, client, inward, .. } = self;
        match target.plain_tcp() {
            Some(target) if inward.by_kernel() => kernel::carry(client, target, inward, cx, Cut::Client, Cut::Target),
            _ => carry(client, target, inward, cx, Cut::Client, Cut::Target),
        }
    }

    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Self { target, client, outward, .. } = self;
        if let Io::Buffered(target) = target {
            return hand_on(&mut **target, client, outward, cx);
        }
        match target.plain_tcp() {
            Some(target) if outward.by_kernel() => kernel::carry(target, client, outward, cx, Cut::Target, Cut::Client),
            _ => carry(target, client, outward, cx, Cut::Target, Cut::Client),
        }
    }
}

/// The target's direction, out of the target's own buffer.
fn hand_on(
    from: &mut dyn BufferedDuplex,
    to: &mut TcpStream,
    direction: &mut Direction,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Cut>> {
    let until = direction.bytes + BYTES_A_TURN;
    while direction.bytes < until {
        if !direction.ended {
            let bytes = ready!(Pin::new(&mut *from).poll_fill_buf(cx)).map_err(Cut::Target)?;
            if !bytes.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, bytes)).map_err(Cut::Client)?;
                Pin::new(&mut *from).consume(n);
                direction.bytes += n as u64;
                continue;
            }
            direction.ended = true;
        }
        ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Cut::Client)?;
        direction.done = true;
        return Poll::Ready(Ok(()));
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// One direction, as far as it goes without waiting.
fn carry<R, W>(
    from: &mut R,
    to: &mut W,
    direction: &mut Direction,
    cx: &mut Context<'_>,
    from_failed: fn(io::Error) -> Cut,
    to_failed: fn(io::Error) -> Cut,
) -> Poll<Result<(), Cut>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let until = direction.bytes + BYTES_A_TURN;
    while direction.bytes < until {
        while direction.has_kept() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &direction.kept[direction.sent..])).map_err(to_failed)?;
            if n == 0 {
                return Poll::Ready(Err(to_failed(io::ErrorKind::WriteZero.into())));
            }
            direction.sent += n;
            direction.bytes += n as u64;
            direction.unflushed = true;
        }
        if direction.sent > 0 {
            // An idle pair keeps nothing.
            direction.kept = Vec::new();
            direction.sent = 0;
        }
        // While the receiver (TLS, say) has something in a buffer it is asked again whenever it may go on; that holds up
        // nothing that is to be read.
        if direction.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut *to).poll_flush(cx)
        {
            flushed.map_err(to_failed)?;
            direction.unflushed = false;
        }
        if direction.by_kernel() {
            break;
        }
        if direction.ended {
            ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(to_failed)?;
            direction.done = true;
            return Poll::Ready(Ok(()));
        }
        let moved = BUFFER.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH, 0);
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer)).map_err(from_failed)?;
            let read = buffer.filled();
            if read.is_empty() {
                direction.ended = true;
                return Poll::Ready(Ok(()));
            }
            let written = match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(to_failed(error))),
                Poll::Pending => 0,
            };
            direction.bytes += written as u64;
            direction.unflushed |= written > 0;
            direction.note_read(read.len());
            if written < read.len() {
                direction.keep(&read[written..]);
            }
            Poll::Ready(Ok(()))
        });
        ready!(moved)?;
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::time::sleep;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut client, served) = pair().await;
        let (near, mut far) = duplex(16);
        let work = async {
            client.write_all(b"a question that is longer than the buffer").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            far.read_to_string(&mut question).await.unwrap();
            far.write_all(question.to_uppercase().as_bytes()).await.unwrap();
            drop(far);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let meter = Arc::new(Meter::default());
        let pair_ends = splice_noting(served, Io::other(near), Arc::clone(&meter), || ());
        let (end, answer) =
            tokio::time::timeout(DEADLINE, async { tokio::join!(pair_ends, work) }).await.expect("it ends");
        assert_eq!(answer, "A QUESTION THAT IS LONGER THAN THE BUFFER");
        assert_eq!((end.inward, end.outward), (41, 41));
        assert_eq!((meter.inward(), meter.outward()), (41, 41));
        assert!(end.cut.is_none());
    }

    #[tokio::test]
    async fn much_between_tcp_connections_arrives_whole_however_slow_its_readers_are() {
        const MUCH: usize = 24 << 20;
        let (mut client, served) = pair().await;
        let (target, mut service) = pair().await;
        let meter = Arc::new(Meter::default());
        let carried = splice_noting(served, Io::Tcp(target), Arc::clone(&meter), || ());
        // Not a multiple of any buffer, so that an exchange of two pieces would be seen.
        let sent: Vec<u8> = (0_u8..251).cycle().take(MUCH).collect();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_service, mut to_service) = service.split();
        let write = async |to: &mut (dyn AsyncWrite + Send + Unpin)| {
            for piece in sent.chunks(3 << 20) {
                to.write_all(piece).await.unwrap();
                // A pause, after which it starts anew.
                sleep(Duration::from_millis(5)).await;
            }
            to.shutdown().await.unwrap();
        };
        let read = async |from: &mut (dyn AsyncRead + Send + Unpin)| {
            let mut got = Vec::new();
            while from.read_buf(&mut got).await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(got == sent, "{} of {} bytes came, or others", got.len(), sent.len());
        };
        let all = async {
            tokio::join!(
                carried,
                write(&mut to_client),
                read(&mut from_service),
                write(&mut to_service),
                read(&mut from_client)
            )
        };
        let (end, ..) = tokio::time::timeout(DEADLINE * 6, all).await.expect("it ends");
        assert_eq!((end.inward, end.outward), (MUCH as u64, MUCH as u64));
        assert_eq!((meter.inward(), meter.outward()), (MUCH as u64, MUCH as u64));
        assert!(end.cut.is_none(), "{:?}", end.cut);
    }

    #[tokio::test]
    async fn a_pair_that_is_cut_in_the_middle_is_a_reset_at_both_ends() {
        let (mut client, served) = pair().await;
        let (target, mut service) = pair().await;
        let talking = async {
            service.write_all(b"half of it").await.unwrap();
            client.read_exact(&mut [0; 10]).await.unwrap();
            client.write_all(b"half").await.unwrap();
            service.read_exact(&mut [0; 4]).await.unwrap();
        };
        let work = async {
            tokio::select! {
                biased;
                _ = splice(served, Io::Tcp(target)) => panic!("it has no end"),
                () = talking => {}
            }
        };
        tokio::time::timeout(DEADLINE, work).await.unwrap();
        for end in [&mut client, &mut service] {
            let read = tokio::time::timeout(DEADLINE, end.read(&mut [0; 8])).await.unwrap();
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_direction_that_has_ended_is_not_taken_back_when_the_other_one_is_cut() {
        let (mut client, served) = pair().await;
        let (target, mut service) = pair().await;
        let talking = async {
            client.write_all(b"all of it").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            service.read_to_string(&mut question).await.unwrap();
            question
        };
        let work = async {
            tokio::select! {
                biased;
                _ = splice(served, Io::Tcp(target)) => panic!("it has no end"),
                question = talking => question,
            }
        };
        assert_eq!(tokio::time::timeout(DEADLINE, work).await.unwrap(), "all of it");
        let read = tokio::time::timeout(DEADLINE, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_is_given_up_before_it_has_a_target_sees_a_reset() {
        let (mut client, served) = pair().await;
        drop(Unanswered::new(served));
        let read = tokio::time::timeout(DEADLINE, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_service_that_resets_in_the_middle_of_much_resets_the_client() {
        let (mut client, served) = pair().await;
        let (target, mut service) = pair().await;
        let work = async {
            service.write_all(&vec![7; 4 << 20]).await.unwrap();
            SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
            drop(service);
        };
        let read = async {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap_err().kind()
        };
        let all = async { tokio::join!(splice(served, Io::Tcp(target)), work, read) };
        let (end, (), error) = tokio::time::timeout(DEADLINE, all).await.expect("it ends");
        assert!(matches!(end.cut, Some(Cut::Target(_))), "{:?}", end.cut);
        assert_eq!(error, io::ErrorKind::ConnectionReset);
    }

    /// What the service sees of a client that says something and resets.
    async fn seen_of_a_reset(wrapped: impl FnOnce(TcpStream) -> Io) -> (SpliceEnd, io::ErrorKind) {
        let (mut client, served) = pair().await;
        let (target, mut service) = pair().await;
        let work = async {
            client.write_all(b"half of it").await.unwrap();
            service.read_exact(&mut [0; 10]).await.unwrap();
            refuse(&client);
            drop(client);
            service.read(&mut [0; 8]).await.expect_err("half of it passes for all of it").kind()
        };
        let all = async { tokio::join!(splice(served, wrapped(target)), work) };
        tokio::time::timeout(DEADLINE, all).await.expect("it ends")
    }

    /// Bytes pass it as they are.
    struct Through(Io);

    impl crate::connect::Layer for Through {
        fn under(&self) -> &Io {
            &self.0
        }
    }

    impl AsyncRead for Through {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Through {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_client_that_resets_in_the_middle_resets_the_target() {
        let ways: [fn(TcpStream) -> Io; 3] =
            [Io::Tcp, |tcp| Io::Tcp(tcp).with(()), |tcp| Io::over(Through(Io::Tcp(tcp))).with(())];
        for wrapped in ways {
            let (end, seen) = seen_of_a_reset(wrapped).await;
            assert!(matches!(end.cut, Some(Cut::Client(_))), "{:?}", end.cut);
            assert_eq!((end.inward, seen), (10, io::ErrorKind::ConnectionReset));
        }
    }

    /// A receiver with a buffer, which it passes on only when it is flushed and may.
    struct Slow {
        far: DuplexStream,
        held: Vec<u8>,
        may: Pin<Box<dyn Future<Output = ()> + Send>>,
        opened: bool,
    }

    impl AsyncRead for Slow {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.far).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.held.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            if !this.opened {
                ready!(this.may.as_mut().poll(cx));
                this.opened = true;
            }
            while !this.held.is_empty() {
                let n = ready!(Pin::new(&mut this.far).poll_write(cx, &this.held))?;
                this.held.drain(..n);
            }
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.as_mut().poll_flush(cx))?;
            Pin::new(&mut self.far).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_a_target_has_in_a_buffer_is_sent_though_nothing_more_comes() {
        let (mut client, served) = pair().await;
        let (far, mut service) = duplex(64);
        let (may, asked) = tokio::sync::oneshot::channel::<()>();
        let slow = Slow { far, held: Vec::new(), may: Box::pin(async { drop(asked.await) }), opened: false };
        let work = async {
            client.write_all(b"hello").await.unwrap();
            // It is in the buffer by then.
            sleep(Duration::from_millis(50)).await;
            may.send(()).unwrap();
            let mut got = [0; 5];
            service.read_exact(&mut got).await.unwrap();
            got
        };
        tokio::select! {
            biased;
            _ = splice(served, Io::other(slow)) => panic!("it has no end"),
            got = tokio::time::timeout(DEADLINE, work) => assert_eq!(&got.expect("it is sent"), b"hello"),
        }
    }

    #[tokio::test]
    async fn a_target_that_does_not_take_what_a_client_has_said_is_given_up() {
        let (mut client, served) = pair().await;
        let (near, _far) = duplex(4);
        let opening = Opening { bytes: b"a hello".to_vec(), within: Duration::from_millis(20) };
        let carried = splice_after(served, opening, Io::other(near), Arc::default(), || ());
        let end = tokio::time::timeout(DEADLINE, carried).await.expect("it ends");
        assert!(matches!(end.cut, Some(Cut::Target(error)) if error.kind() == io::ErrorKind::TimedOut));
        assert_eq!(client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_a_client_has_said_goes_first_and_once_taken_nobody_hurries() {
        let (mut client, served) = pair().await;
        let (near, mut far) = duplex(64);
        let opening = Opening { bytes: b"hel".to_vec(), within: Duration::from_millis(20) };
        client.write_all(b"lo").await.unwrap();
        let meter = Arc::new(Meter::default());
        let work = async {
            let mut got = [0; 5];
            far.read_exact(&mut got).await.unwrap();
            sleep(Duration::from_millis(60)).await;
            drop(far);
            client.shutdown().await.unwrap();
            got
        };
        let carried = splice_after(served, opening, Io::other(near), Arc::clone(&meter), || ());
        let (end, got) = tokio::time::timeout(DEADLINE, async { tokio::join!(carried, work) }).await.expect("it ends");
        assert_eq!((&got, end.inward, meter.inward()), (b"hello", 5, 5));
        assert!(end.cut.is_none(), "{:?}", end.cut);
    }

    #[tokio::test]
    async fn a_target_that_fails_resets_the_client() {
        struct Failing;
        impl AsyncRead for Failing {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()))
            }
        }
        impl AsyncWrite for Failing {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(buf.len()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (mut client, served) = pair().await;
        let end = splice(served, Io::other(Failing)).await;
        assert!(matches!(end.cut, Some(Cut::Target(_))));
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_left_ends_the_pair_though_the_target_is_silent() {
        let (client, served) = pair().await;
        let (near, _far) = duplex(16);
        drop(client);
        let end = tokio::time::timeout(DEADLINE, splice(served, Io::other(near))).await.expect("it ends");
        assert!(end.cut.is_none());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_ended_its_half_and_left_with_something_unread_is_let_go() {
        let (mut client, served) = pair().await;
        let (near, mut far) = duplex(64);
        let leaving = async {
            far.write_all(b"a banner").await.unwrap();
            client.readable().await.unwrap();
            client.shutdown().await.unwrap();
            // A reset after its end: the kernel has no address of it any more.
            drop(client);
            far
        };
        let both = async { tokio::join!(splice(served, Io::other(near)), leaving) };
        let (_, _silent) = tokio::time::timeout(DEADLINE, both).await.expect("nobody wants an answer");
    }

    #[tokio::test]
    async fn a_client_that_only_ended_its_half_is_waited_for() {
        let (mut client, served) = pair().await;
        let (near, mut far) = duplex(16);
        client.shutdown().await.unwrap();
        let splicing = splice(served, Io::other(near));
        tokio::pin!(splicing);
        tokio::select! {
            _ = &mut splicing => panic!("the answer was not waited for"),
            () = sleep(Duration::from_millis(400)) => {}
        }
        far.write_all(b"late").await.unwrap();
        drop(far);
        let mut answer = String::new();
        let (_, read) = tokio::join!(splicing, client.read_to_string(&mut answer));
        read.unwrap();
        assert_eq!(answer, "late");
    }
}
