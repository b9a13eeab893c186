//! The lines of all tasks, written in their order by a thread of its own: a reader that stops reading holds up neither
//! connections nor the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::terminal;

/// Lines on their way to a reader. With more of them they are dropped and counted; the count is written when there is
/// room again.
const LINES: usize = 1024;
/// Of those, so many are kept for lines that say more than that a connection came or went.
const RESERVED: usize = 256;
/// How long the end waits for a reader.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// So long a line for people may take before the next one for programs is written, where standard error has a thread of its
/// own: whoever reads both in one place has them in their order.
pub(super) const ORDER: Duration = Duration::from_millis(100);

/// So long it is between two counts of dropped lines at least, as long as there are more lines: beside a reader who is too
/// slow, a count after each line would make it worse.
const BETWEEN: Duration = Duration::from_secs(1);

/// Takes lines; never waits.
pub(super) struct Output {
    lines: mpsc::Sender<Line>,
    /// Lines that are queued, or being written.
    waiting: Arc<AtomicU64>,
    /// Lines that found no room, as long as that is not told.
    dropped: Arc<AtomicU64>,
}

/// What is written.
#[derive(Debug)]
pub(super) enum Line {
    /// A line for programs, on standard output.
    Data(String),
    /// A line for people, on standard error.
    Say(String),
    /// A line on the terminal that the next one is drawn over.
    Draw(String),
    /// Takes such a line away.
    Undraw,
    /// Tells that everything before is written.
    Flush(oneshot::Sender<()>),
}

impl Line {
    /// Whether it is one that is missed when it is not written.
    const fn is_news(&self) -> bool {
        matches!(self, Self::Data(_) | Self::Say(_))
    }
}

/// How much a line matters when there is little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// One of many about single connections.
    Light,
    /// Anything else.
    Full,
}

impl Output {
    /// Writes to standard output and standard error; `left_out` words the number of lines that were dropped.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(left_out: impl Fn(u64) -> Line + Send + 'static) -> io::Result<Self> {
        let mut pen = Pen { drawn: false, order: Order::default() };
        Self::start_with(left_out, move |line| pen.write(line))
    }

    fn start_with(
        left_out: impl Fn(u64) -> Line + Send + 'static,
        mut write: impl FnMut(Line) + Send + 'static,
    ) -> io::Result<Self> {
        let (lines, mut queue) = mpsc::channel::<Line>(LINES);
        let (waiting, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (left, missing) = (Arc::clone(&waiting), Arc::clone(&dropped));
        // No task of a scope: a write to a reader that has stopped cannot be cancelled, and the end does not wait for it.
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut told = None::<Instant>;
            while let Some(line) = queue.blocking_recv() {
                let (news, is_flush) = (u64::from(line.is_news()), matches!(line, Line::Flush(_)));
                let mut line = Some(line);
                // Whoever waits for the end is to have the count, too.
                if !is_flush {
                    line.take().into_iter().for_each(&mut write);
                }
                left.fetch_sub(news, Ordering::Relaxed);
                let is_due = is_flush || queue.is_empty() || told.is_none_or(|told| told.elapsed() >= BETWEEN);
                let count = missing.load(Ordering::Relaxed);
                if is_due && count > 0 {
                    write(left_out(count));
                    missing.fetch_sub(count, Ordering::Relaxed);
                    told = Some(Instant::now());
                }
                line.into_iter().for_each(&mut write);
            }
        })?;
        Ok(Self { lines, waiting, dropped })
    }

    /// Queues a line.
    pub(super) fn put(&self, line: Line, weight: Weight) {
        let room = weight == Weight::Full || self.lines.capacity() > RESERVED;
        let news = u64::from(line.is_news());
        // Before it is queued, so that it is never taken off before it is there.
        self.waiting.fetch_add(news, Ordering::Relaxed);
        if !room || self.lines.try_send(line).is_err() {
            self.waiting.fetch_sub(news, Ordering::Relaxed);
            self.dropped.fetch_add(news, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, but not for ever. With the number of lines that nobody has taken by then, and that
    /// no line tells of.
    pub(super) async fn flush(&self) -> u64 {
        let (done, written) = oneshot::channel();
        let flushed = async {
            // The thread lives as long as this does.
            let _ = self.lines.send(Line::Flush(done)).await;
            let _ = written.await;
        };
        match tokio::time::timeout(PATIENCE, flushed).await {
            Ok(()) => 0,
            Err(_) => self.waiting.load(Ordering::Relaxed) + self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// Writes lines; knows whether one of them is to be drawn over.
struct Pen {
    drawn: bool,
    order: Order,
}

/// Keeps lines for people and lines for programs in their order, as long as somebody reads both.
#[derive(Default)]
struct Order {
    /// Standard error was not read in time, and has not been read to its end since.
    is_late: bool,
}

impl Order {
    /// Waits until everything is `said`, which is told for how long; lines for programs are not held up by a reader who
    /// stands still.
    fn keep(&mut self, said: impl FnOnce(Duration) -> bool) {
        let limit = if self.is_late { Duration::ZERO } else { ORDER };
        self.is_late = !said(limit);
    }
}

impl Pen {
    fn write(&mut self, line: Line) {
        match line {
            Line::Draw(text) => {
                let width = terminal::error_width().saturating_sub(1);
                let line: String = text.chars().take(width).collect();
                terminal::redraw(&line);
                self.drawn = true;
                return;
            }
            Line::Flush(done) => {
                // Nobody waits for it any more: fine.
                let _ = done.send(());
                return;
            }
            Line::Data(_) | Line::Say(_) | Line::Undraw => {}
        }
        if std::mem::take(&mut self.drawn) {
            terminal::redraw("");
        }
        match line {
            Line::Data(text) => terminal::data(&format!("{text}\n")),
            Line::Say(text) => {
                terminal::say(&text);
                self.order.keep(terminal::said);
            }
            Line::Draw(_) | Line::Undraw | Line::Flush(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_stops_holds_up_nobody_and_reads_later_what_is_missing() {
        let (gate, closed) = std_mpsc::sync_channel::<()>(0);
        let (wrote, written) = std_mpsc::sync_channel(4 * LINES);
        let write = move |line| {
            // Fails at once when the gate is gone: then everything passes.
            let _ = closed.recv();
            match line {
                Line::Data(text) => wrote.send(text).expect("room for all"),
                Line::Flush(done) => done.send(()).expect("it waits"),
                other => panic!("{other:?}"),
            }
        };
        let output = Output::start_with(|count| Line::Data(format!("{count} left out")), write).expect("a thread");
        for at in 0..2 * LINES {
            output.put(Line::Data(format!("light {at}")), Weight::Light);
        }
        output.put(Line::Data("full".to_owned()), Weight::Full);
        drop(gate);
        output.flush().await;
        let lines: Vec<String> = written.try_iter().collect();
        assert_eq!(lines.first().map(String::as_str), Some("light 0"));
        assert_eq!(lines.iter().filter(|line| *line == "full").count(), 1, "there was room kept for it");
        let light = lines.iter().filter(|line| line.starts_with("light")).count();
        let left_out =
            lines.iter().filter_map(|line| line.strip_suffix(" left out")?.parse::<usize>().ok()).sum::<usize>();
        assert_eq!(light + left_out, 2 * LINES);
        assert!(left_out >= LINES, "{left_out}");
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_are_not_taken_by_the_end_are_counted_each_once() {
        let (gate, closed) = std_mpsc::sync_channel::<()>(0);
        let write = move |line| {
            let _ = closed.recv();
            if let Line::Flush(done) = line {
                let _ = done.send(());
            }
        };
        let output = Output::start_with(|count| Line::Data(format!("{count} left out")), write).expect("a thread");
        output.put(Line::Draw("no news".to_owned()), Weight::Full);
        for at in 0..2 * LINES {
            output.put(Line::Data(at.to_string()), Weight::Full);
        }
        output.put(Line::Draw("no news, without room".to_owned()), Weight::Full);
        assert_eq!(output.flush().await, 2 * LINES as u64, "queued or dropped");
        drop(gate);
        tokio::time::resume();
        assert_eq!(output.flush().await, 0, "its reader goes on");
    }

    #[tokio::test]
    async fn lines_that_go_on_to_be_dropped_are_not_told_of_after_each_line() {
        const ROUNDS: usize = 200;
        let output = Arc::new(std::sync::OnceLock::<Output>::new());
        let (filled, counts) = (Arc::clone(&output), Arc::new(AtomicU64::new(0)));
        let (over, ended) = std_mpsc::sync_channel(1);
        let mut rounds = 0..ROUNDS;
        let told = Arc::clone(&counts);
        let write = move |line| match line {
            // The queue is never left with room.
            Line::Data(_) => {
                if rounds.next().is_some() {
                    let output = filled.wait();
                    (0..=LINES).for_each(|at| output.put(Line::Data(at.to_string()), Weight::Full));
                } else {
                    let _ = over.try_send(());
                }
            }
            Line::Flush(done) => done.send(()).expect("it waits"),
            Line::Say(_) => drop(told.fetch_add(1, Ordering::Relaxed)),
            other => panic!("{other:?}"),
        };
        let started = Output::start_with(|count| Line::Say(count.to_string()), write).expect("a thread");
        started.put(Line::Data("first".to_owned()), Weight::Full);
        output.set(started).ok().expect("it is the first");
        ended.recv().expect("its thread lives");
        assert_eq!(output.wait().flush().await, 0);
        let counts = counts.load(Ordering::Relaxed);
        assert!((1..ROUNDS as u64 / 2).contains(&counts), "{counts}");
    }

    #[test]
    fn standard_error_that_nobody_reads_is_waited_for_once() {
        let mut order = Order::default();
        let mut limits = Vec::new();
        for is_written in [true, false, false, true, true] {
            order.keep(|limit| {
                limits.push(limit);
                is_written
            });
        }
        assert_eq!(limits, [ORDER, ORDER, Duration::ZERO, Duration::ZERO, ORDER]);
    }
}
