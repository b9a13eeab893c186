//! Ctrl-Z in the live view: the shell has the terminal until it gives it back. A stop from elsewhere (`kill -TSTP`) leaves the
//! page on the terminal until the view goes on: a handler would take over the kernel's care for groups without a shell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::monitor::agent::Shared;
use runtime::signals::Continuations;
use tokio::sync::{mpsc, oneshot};

use crate::terminal::{self, Screen};

/// How often it is looked whether the terminal is ours again: some shells tell nobody.
const LOOK: Duration = Duration::from_millis(100);

/// The side of the view, on its own thread.
pub(super) struct Suspension {
    asks: mpsc::Sender<oneshot::Sender<()>>,
    continued: Arc<AtomicBool>,
}

/// The other side, on the first thread of the process.
pub(super) struct Suspender {
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    continued: Arc<AtomicBool>,
    continuations: Continuations,
}

/// Both sides.
pub(super) fn start() -> std::io::Result<(Suspension, Suspender)> {
    let continuations = Continuations::install()?;
    // The view waits for the answer before it could ask again.
    let (asks, asked) = mpsc::channel(1);
    let continued = Arc::new(AtomicBool::new(false));
    let view = Suspension { asks, continued: Arc::clone(&continued) };
    Ok((view, Suspender { asked, continued, continuations }))
}

impl Suspension {
    /// Lets the shell have the terminal; returns when it is ours again, or the end has begun. Where nobody could take it,
    /// this does nothing.
    pub(super) fn suspend(&self, screen: &Screen, shared: &Shared) {
        if !terminal::is_in_front() {
            return;
        }
        screen.lend();
        let (done, over) = oneshot::channel();
        if self.asks.blocking_send(done).is_ok() {
            // Without an answer the end has begun.
            let _ = over.blocking_recv();
        }
        take_again(screen, shared);
    }

    /// Takes the terminal anew when the process has been stopped meanwhile, by whomever; whether that was so.
    pub(super) fn go_on(&self, screen: &Screen, shared: &Shared) -> bool {
        let continued = self.continued.swap(false, Ordering::Relaxed);
        if continued {
            take_again(screen, shared);
        }
        continued
    }
}

/// In the background it waits: whoever changes the terminal's modes there is stopped again.
fn take_again(screen: &Screen, shared: &Shared) {
    while terminal::is_behind() && !shared.is_stopped() {
        std::thread::park_timeout(LOOK);
    }
    if !shared.is_stopped() {
        screen.take_again();
    }
}

impl Suspender {
    /// Does what the view asks for, and tells it when the process goes on after a stop; for ever.
    pub(super) async fn serve(&mut self, shared: &Shared) -> std::convert::Infallible {
        loop {
            tokio::select! {
                biased;
                Some(done) = self.asked.recv() => {
                    if !shared.is_stopped() {
                        stop_group();
                    }
                    // It may be gone: then there is nobody to be told.
                    let _ = done.send(());
                }
                () = self.continuations.next() => self.continued.store(true, Ordering::Relaxed),
            }
        }
    }
}

/// Stops all of the process group, as the terminal does, and returns when somebody lets it go on. Where no shell could do
/// that, the kernel takes no notice, and this returns at once.
///
/// The kernel hands the signal to the first thread of the process. As that is the one that sends it, it is stopped here, and
/// not a moment later, when the view may have taken the terminal again.
fn stop_group() {
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
}
