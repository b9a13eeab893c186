//! The signals a program of ours listens to: terminate and interrupt to stop, hang-up to reload.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::scope::Scope;

/// A request to stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StopSignal {
    /// SIGTERM: a supervisor wants us to end.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
}

impl StopSignal {
    /// The signal's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

/// SIGTERM and SIGINT as they come. While this lives they do not end the process by themselves.
#[derive(Debug)]
pub struct StopSignals {
    source: Source,
}

#[derive(Debug)]
enum Source {
    System { terminate: Signal, interrupt: Signal },
    Script(mpsc::Receiver<StopSignal>),
}

impl StopSignals {
    /// Takes over the two signals, for the rest of the process's life.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let source =
            Source::System { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { source })
    }

    /// Signals that come from a channel: for tests, and for programs within a program.
    #[must_use]
    pub fn scripted(signals: mpsc::Receiver<StopSignal>) -> Self {
        Self { source: Source::Script(signals) }
    }

    /// The next signal.
    pub async fn next(&mut self) -> StopSignal {
        let next = match &mut self.source {
            Source::System { terminate, interrupt } => {
                tokio::select! {
                    _ = terminate.recv() => Some(StopSignal::Terminate),
                    _ = interrupt.recv() => Some(StopSignal::Interrupt),
                }
            }
            Source::Script(signals) => signals.recv().await,
        };
        match next {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// SIGUSR1 and SIGUSR2 as they come.
#[derive(Debug)]
pub struct UserSignals {
    first: Signal,
    second: Signal,
}

impl UserSignals {
    /// Takes over both, for the rest of the process's life.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self { first: signal(SignalKind::user_defined1())?, second: signal(SignalKind::user_defined2())? })
    }

    /// Returns at the next one; whether it was the second kind.
    pub async fn next(&mut self) -> bool {
        tokio::select! {
            biased;
            Some(()) = self.first.recv() => false,
            Some(()) = self.second.recv() => true,
            else => std::future::pending().await,
        }
    }
}

/// SIGHUP as it comes: reload. While this lives it does not end the process.
#[derive(Debug)]
pub struct Hangups {
    hangup: Signal,
}

impl Hangups {
    /// Takes over the signal, for the rest of the process's life. There may be several of these.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self { hangup })
    }

    /// Returns at the next one.
    pub async fn next(&mut self) {
        if self.hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Calls `action` at each, until the scope drains. `action` must not block.
    pub fn each(mut self, scope: &Scope, action: impl Fn() + Send + 'static) {
        let until = scope.clone();
        scope.spawn("hang-up signals", async move {
            loop {
                tokio::select! {
                    biased;
                    () = until.drained() => return,
                    () = self.next() => action(),
                }
            }
        });
    }
}

/// SIGCONT as it comes: the process goes on after it was stopped. It does so whether or not this lives.
#[derive(Debug)]
pub struct Continuations {
    going_on: Signal,
}

impl Continuations {
    /// Listens to the signal, for the rest of the process's life.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        let number = rustix::process::Signal::CONT.as_raw();
        Ok(Self { going_on: signal(SignalKind::from_raw(number))? })
    }

    /// Returns at the next one.
    pub async fn next(&mut self) {
        if self.going_on.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
