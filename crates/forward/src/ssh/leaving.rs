//! Streams that we are done with, and the server is not yet.
//!
//! russh forgets a stream when the server's end of it comes before ours; of each other one some 3 KiB stay until the connection
//! ends. So a stream of which our direction has ended is left for the server to end, which it does as soon as its
//! own has, too; and only if it has not for a while, or goes on to send, we do. Of those that we end first a connection bears so many, then it is
//! replaced by another.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelId, ChannelWriteHalf};
use tokio::time::Instant;

use super::link::{LinkShared, last_moment};

/// A server has so much time to end a stream whose target says nothing more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who ends a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Server,
    Us,
}

/// The streams of a connection that are left to the server.
#[derive(Default)]
pub(super) struct Leaving(Mutex<List>);

#[derive(Default)]
struct List {
    /// By when we end them.
    streams: VecDeque<(Instant, ChannelWriteHalf<Msg>)>,
    /// A task sees to them.
    watched: bool,
}

impl Leaving {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkShared {
    /// Nobody has the stream any more, and our direction has ended.
    pub(crate) fn leave(self: &Arc<Self>, half: ChannelWriteHalf<Msg>) {
        let is_first = {
            let mut list = self.leaving.list();
            list.streams.push_back((Instant::now() + PATIENCE, half));
            !std::mem::replace(&mut list.watched, true)
        };
        if is_first {
            // One for all of them: a task and a timer for each would cost each new connection time.
            self.scope().spawn("leave ssh streams", Watch { shared: Arc::clone(self), done: false }.run());
        }
    }

    /// Ends a stream, whatever the server is at.
    pub(crate) async fn close(&self, half: ChannelWriteHalf<Msg>) {
        let id = half.id();
        // An error says that the connection is gone, and the stream with it.
        let _ = half.close().await;
        self.over(id, By::Us);
    }

    /// Nothing of a stream comes any more. It is kept for an owner who does not have it yet.
    pub(super) fn over(&self, id: ChannelId, by: By) {
        let Some(flow) = self.known_flow(id) else { return };
        if flow.end() && by == By::Us {
            self.left.fetch_add(1, Ordering::Relaxed);
            if self.is_worn() {
                // Kept for who comes to wait.
                self.worn.notify_one();
            }
        }
        if flow.is_handed_out() {
            self.forget(id);
        }
    }

    /// Whether so many streams were ended before the server did that the connection is to be replaced.
    pub(crate) fn is_worn(&self) -> bool {
        self.left.load(Ordering::Relaxed) >= self.limits().left
    }
}

/// Sees to the streams that are left. They keep their connection, so none stays when this is dropped.
struct Watch {
    shared: Arc<LinkShared>,
    done: bool,
}

impl Watch {
    /// At the end not for long: a server that is frozen takes no word of it.
    async fn run(mut self) {
        let scope = self.shared.scope().clone();
        tokio::select! {
            biased;
            () = self.end_all() => {}
            () = last_moment(&scope) => {}
        }
    }

    async fn end_all(&mut self) {
        while let Some(due) = self.next() {
            tokio::select! {
                biased;
                () = self.shared.scope().awaited() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            let stream = self.shared.leaving.list().streams.pop_front();
            if let Some((_, half)) = stream.filter(|(_, half)| self.shared.is_known(half.id())) {
                self.shared.close(half).await;
            }
        }
    }

    /// When there is something to do; `None`: the server has ended all of them.
    fn next(&mut self) -> Option<Instant> {
        let mut list = self.shared.leaving.list();
        while list.streams.front().is_some_and(|(_, half)| !self.shared.is_known(half.id())) {
            list.streams.pop_front();
        }
        let due = list.streams.front().map(|(due, _)| *due);
        if due.is_none() {
            list.watched = false;
            self.done = true;
        }
        due
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.done {
            let mut list = self.shared.leaving.list();
            list.watched = false;
            list.streams.clear();
        }
    }
}
