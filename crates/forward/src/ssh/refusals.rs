//! What a server says of the streams that it does not open.
//!
//! russh tells whoever waits for a stream the number of the reason, and the connection's handler the words, with the stream's id, which
//! whoever waits never learns. Ids are given in the order in which streams are asked for: so that order is kept here.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelId, ChannelOpenFailure};
use tokio::sync::Notify;

use super::link::OpenError;
use super::words::printable;

/// The first id that russh gives.
const FIRST: u32 = 2;
/// The words come with the number, so whoever has that waits but a moment. It is only a bound.
const MOMENT: Duration = Duration::from_millis(500);
/// Words for which nobody waits any more are kept up to this number.
const KEPT: usize = 256;
/// The longest text that is told: it stands in the middle of a line.
const WORDS_MAX: usize = 200;

/// Why the server does not open a stream, with its words.
pub(crate) enum Denial {
    /// It does not forward there.
    Prohibited(String),
    /// It got no connection there.
    Failed(String),
    /// It has no room for it now.
    Busy(String),
}

/// What a server said of the streams of one connection.
#[derive(Default)]
pub(super) struct Refusals {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Default)]
struct State {
    /// How many streams were asked for.
    asked: u32,
    /// By their ids.
    words: BTreeMap<u32, String>,
    /// An id was not the one that it should have been: better no words than those of another stream.
    lost_count: bool,
    /// Streams that are asked for now.
    open: usize,
    /// Some were asked for at the same time, and not all of those have their answer yet.
    mixed: bool,
}

/// Counts a stream while it is asked for.
struct Asked<'a>(&'a Refusals);

impl<'a> Asked<'a> {
    fn begin(refusals: &'a Refusals) -> Self {
        let mut state = refusals.state();
        state.open += 1;
        state.mixed |= state.open > 1;
        Self(refusals)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.mixed &= state.open > 0;
    }
}

impl Refusals {
    /// Asks for a stream.
    pub(super) async fn asking(
        &self,
        asking: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    ) -> Result<Channel<Msg>, OpenError> {
        let _asked = Asked::begin(self);
        let (mut asking, mut id) = (pin!(asking), None);
        let opened = std::future::poll_fn(|cx| {
            if id.is_some() {
                return asking.as_mut().poll(cx);
            }
            // With its first step it stands in russh's queue, unless that is full: then those who wait come in any order.
            let mut state = self.state();
            id = Some(FIRST.wrapping_add(state.asked));
            state.asked = state.asked.wrapping_add(1);
            let mut first = pin!(tokio::task::unconstrained(asking.as_mut()));
            let step: Poll<_> = first.as_mut().poll(cx);
            step
        });
        match (opened.await, id) {
            (Ok(channel), id) => {
                if id != Some(channel.id().into()) {
                    self.state().lost_count = true;
                }
                Ok(channel)
            }
            (Err(russh::Error::ChannelOpenFailure(reason)), Some(id)) => {
                let words = self.words(id).await;
                Err(OpenError::Denied(match reason {
                    ChannelOpenFailure::AdministrativelyProhibited => Denial::Prohibited(words),
                    ChannelOpenFailure::ResourceShortage => Denial::Busy(words),
                    _ => Denial::Failed(words),
                }))
            }
            (Err(_), _) => Err(OpenError::Lost),
        }
    }

    /// The server has said why it does not open a stream.
    pub(super) fn said(&self, id: ChannelId, words: &str) {
        {
            let mut state = self.state();
            let words = printable(words).trim().chars().take(WORDS_MAX).collect();
            state.words.insert(id.into(), words);
            if state.words.len() > KEPT {
                state.words.pop_first();
            }
        }
        self.told.notify_waiters();
    }

    async fn words(&self, id: u32) -> String {
        let coming = async {
            loop {
                let mut told = pin!(self.told.notified());
                told.as_mut().enable();
                {
                    let mut state = self.state();
                    let words = state.words.remove(&id);
                    if state.lost_count || state.mixed {
                        return String::new();
                    }
                    if let Some(words) = words {
                        return words;
                    }
                }
                told.await;
            }
        };
        tokio::time::timeout(MOMENT, coming).await.unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
