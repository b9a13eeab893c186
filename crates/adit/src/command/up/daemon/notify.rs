//! What systemd is told: ready, reloading, stopping, still alive (`sd_notify(3)`).

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use runtime::scope::Scope;

/// No manager hears of us more often.
const OFTEN: Duration = Duration::from_millis(1);

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Notify {
    manager: Option<Arc<Manager>>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How often it wants to hear of us.
    watchdog: Option<Duration>,
}

impl Notify {
    /// By `$NOTIFY_SOCKET`, `$WATCHDOG_USEC` and `$WATCHDOG_PID`.
    pub(super) fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let watchdog = watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID"));
        let manager = std::env::var_os("NOTIFY_SOCKET").and_then(|path| manager(&path, watchdog)).map(Arc::new);
        Self { manager }
    }

    /// Everything is open; from now on the manager hears of us as often as it wants.
    pub(super) fn ready(&self, scope: &Scope) {
        self.send(&format!("READY=1\nMAINPID={}\nSTATUS=running", std::process::id()));
        let Some(every) = self.manager.as_ref().and_then(|manager| manager.watchdog) else { return };
        let (notify, until) = (self.clone(), scope.clone());
        scope.spawn("watchdog", async move {
            let mut tick = tokio::time::interval((every / 2).max(OFTEN));
            loop {
                tokio::select! {
                    biased;
                    () = until.drained() => return,
                    _ = tick.tick() => notify.send("WATCHDOG=1"),
                }
            }
        });
    }

    /// The configuration is read again.
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
    }

    /// It was read.
    pub(super) fn reloaded(&self) {
        self.send("READY=1");
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=ending");
    }

    /// A manager that is gone is none.
    fn send(&self, text: &str) {
        if let Some(manager) = &self.manager {
            let _ = manager.socket.send_to_addr(text.as_bytes(), &manager.address);
        }
    }
}

/// How often the manager wants to hear of us: never when it says 0, or means another process.
fn watchdog(micros: Option<u64>, pid: Option<u64>) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid == u64::from(std::process::id()));
    micros.filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros)
}

/// A successor takes the place of the process that the manager means.
pub(super) fn pass_on(command: &mut std::process::Command) {
    if std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        command.env_remove("WATCHDOG_PID");
    }
}

/// `@` stands for the abstract namespace of Linux.
fn manager(path: &std::ffi::OsStr, watchdog: Option<Duration>) -> Option<Manager> {
    let address = address(path)?;
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(Manager { socket, address, watchdog })
}

#[cfg(target_os = "linux")]
fn address(path: &std::ffi::OsStr) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(path).ok(),
    }
}

#[cfg(not(target_os = "linux"))]
fn address(path: &std::ffi::OsStr) -> Option<SocketAddr> {
    SocketAddr::from_pathname(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manager_hears_that_we_are_ready_and_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.as_os_str(), Some(Duration::from_millis(20))).map(Arc::new);
        let notify = Notify { manager };
        let scope = Scope::root();
        notify.ready(&scope);
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).await.unwrap();
        assert!(buffer[..length].starts_with(b"READY=1\nMAINPID="));
        for _ in 0..3 {
            let length = socket.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1");
        }
        scope.cancel();
    }

    #[test]
    fn a_watchdog_of_nothing_or_of_another_process_is_none() {
        assert_eq!(watchdog(Some(0), None), None);
        assert_eq!(watchdog(Some(5), Some(1)), None);
        let ours = Some(u64::from(std::process::id()));
        assert_eq!(watchdog(Some(5), ours), Some(Duration::from_micros(5)));
        assert_eq!(watchdog(None, ours), None);
    }
}
