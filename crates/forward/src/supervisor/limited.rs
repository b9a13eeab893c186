//! Streams of a forward that are held to its rate: each direction has a bucket that all of them share.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use adit_core::bucket::TokenBucket;
use runtime::connect::{Io, Layer};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What goes in one piece at most: nobody waits long for one of another stream.
const PIECE_MAX: u64 = 64 * 1024;
/// Such a part of a second's bytes may go at once.
const BURST: u64 = 8;

/// The rate of a forward, for each direction.
#[derive(Debug)]
pub(super) struct Rate {
    piece: usize,
    read: Mutex<TokenBucket>,
    written: Mutex<TokenBucket>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Arc<Self> {
        let burst = (bytes_per_second / BURST).max(1);
        let bucket = || Mutex::new(TokenBucket::new(bytes_per_second, burst));
        let piece = usize::try_from(burst.min(PIECE_MAX)).unwrap_or(1);
        Arc::new(Self { piece, read: bucket(), written: bucket() })
    }
}

/// A wait that one direction of a stream is in.
#[derive(Default)]
struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.0 {
            ready!(sleep.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }

    /// So many bytes have gone: the next ones wait for it.
    fn charge(&mut self, bucket: &Mutex<TokenBucket>, bytes: usize) {
        let now = Instant::now();
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = bucket.take_debt(now.into_std(), u64::try_from(bytes).unwrap_or(u64::MAX));
        if wait > Duration::ZERO {
            self.0 = Some(Box::pin(tokio::time::sleep_until(now + wait)));
        }
    }
}

/// A stream at the rate.
pub(super) struct Limited<T> {
    io: T,
    rate: Arc<Rate>,
    reading: Pause,
    writing: Pause,
}

impl<T> Limited<T> {
    pub(super) fn new(io: T, rate: &Arc<Rate>) -> Self {
        Self { io, rate: Arc::clone(rate), reading: Pause::default(), writing: Pause::default() }
    }
}

impl Layer for Limited<Io> {
    fn under(&self) -> &Io {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Limited<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.reading.poll(cx));
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(buf.remaining().min(this.rate.piece)));
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut piece))?;
        let read = piece.filled().len();
        buf.advance(read);
        this.reading.charge(&this.rate.read, read);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncBufRead + Unpin> AsyncBufRead for Limited<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.reading.poll(cx));
        let piece = this.rate.piece;
        let all = ready!(Pin::new(&mut this.io).poll_fill_buf(cx))?;
        Poll::Ready(Ok(&all[..all.len().min(piece)]))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        Pin::new(&mut this.io).consume(amount);
        this.reading.charge(&this.rate.read, amount);
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Limited<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.writing.poll(cx));
        let piece = &buf[..buf.len().min(this.rate.piece)];
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, piece))?;
        this.writing.charge(&this.rate.written, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    /// 64 KiB a second.
    const RATE: u64 = 64 * 1024;
    const BYTES: usize = 10 * 64 * 1024;

    #[tokio::test(start_paused = true)]
    async fn all_streams_together_are_held_to_the_rate_in_each_direction() {
        let rate = Rate::new(RATE);
        let begun = Instant::now();
        let one = || async {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let mut near = Limited::new(near, &rate);
            let (mut got, sent) = (vec![0; BYTES / 2], vec![7; BYTES / 2]);
            far.write_all(&sent).await.unwrap();
            near.write_all(&sent).await.unwrap();
            near.read_exact(&mut got).await.unwrap();
            assert_eq!(got, sent);
        };
        tokio::join!(one(), one());
        // Two streams of five seconds each share it; what is read follows what is written.
        let took = begun.elapsed().as_secs_f64();
        assert!((17.0..21.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn within_three_seconds_as_much_goes_each_way_as_the_rate_says() {
        let rate = Rate::new(RATE);
        let counts: [std::cell::Cell<usize>; 4] = Default::default();
        let one = async |up: &std::cell::Cell<usize>, down: &std::cell::Cell<usize>| {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (mut from_near, mut to_near) = tokio::io::split(Limited::new(near, &rate));
            let (mut from_far, mut to_far) = tokio::io::split(far);
            let piece = [7; 10_000];
            let (mut at_far, mut at_near) = ([0; 10_000], [0; 10_000]);
            tokio::join!(
                async { while to_near.write_all(&piece).await.is_ok() {} },
                async { while to_far.write_all(&piece).await.is_ok() {} },
                async {
                    while let Ok(read @ 1..) = from_far.read(&mut at_far).await {
                        up.set(up.get() + read);
                    }
                },
                async {
                    while let Ok(read @ 1..) = from_near.read(&mut at_near).await {
                        down.set(down.get() + read);
                    }
                },
            );
        };
        let both = Box::pin(async { tokio::join!(one(&counts[0], &counts[1]), one(&counts[2], &counts[3])) });
        assert!(tokio::time::timeout(Duration::from_secs(3), both).await.is_err(), "it goes on for ever");
        let expected = 3.0 * RATE as f64;
        let of = |at: usize| counts[at].get() as f64;
        for (up, down) in [(0, 2), (1, 3)] {
            let share = (of(up) + of(down)) / expected;
            assert!((0.9..1.1).contains(&share), "{share} of the rate");
            assert!(of(up) > 0.3 * expected && of(down) > 0.3 * expected, "each stream has a part of it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_from_its_buffer_is_held_to_the_rate_as_well() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Limited::new(BufReader::with_capacity(1 << 20, near), &Rate::new(RATE));
        far.write_all(&vec![7; BYTES]).await.unwrap();
        drop(far);
        let begun = Instant::now();
        let mut read = 0;
        loop {
            let length = near.fill_buf().await.unwrap().len();
            if length == 0 {
                break;
            }
            near.consume(length);
            read += length;
        }
        assert_eq!(read, BYTES);
        let took = begun.elapsed().as_secs_f64();
        assert!((9.0..10.5).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn little_goes_at_once() {
        let rate = Rate::new(RATE);
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Limited::new(near, &rate);
        let begun = Instant::now();
        near.write_all(b"hello").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
