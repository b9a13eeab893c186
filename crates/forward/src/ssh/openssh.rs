//! Child processes `ssh -W HOST:PORT`, one for each stream, for what only OpenSSH can do. Another one is the master that
//! carries them, so that there is one login.
//!
//! The master is made by `ssh -fN`: that asks the server for nothing but the login, as a server may allow forwarding and no
//! sessions, and it has ended well as soon as we are let in. We stay connected to the master's socket as long as it is wanted:
//! so we see its end, and it sees ours, however we end.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::ssh::StrictHostKeys;
use runtime::Scope;
use runtime::connect::Io;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use self::hops::{Hops, no_jump};
use super::ask::withhold_secrets;
use super::error::SshError;
use super::settings::{Known, arguments, last_line};
use super::transport::Pipes;
use super::words::{each_line, printable};

/// A master with whom nobody is connected any more ends after so many seconds. Not less: between its begin and our coming
/// nobody is.
const PERSIST: &str = "10";
/// What a login may take beyond the time to connect: a key in hardware waits for a finger.
const FINGER: Duration = Duration::from_secs(60);
/// A master that has just been made greets whoever comes within this time.
const GREETING: Duration = Duration::from_secs(5);
/// What `ssh` says as it fails is awaited so long: what it has started may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The most that is kept of it.
const WORDS_MAX: u64 = 64 * 1024;
/// What `ssh` says once it is let in.
const LET_IN: &str = "Authenticated to ";
/// Our greeting, as OpenSSH's `PROTOCOL.mux` has it: length, kind, version 4.
const HELLO: [u32; 3] = [8, 1, 4];
/// The request for a sign of life.
const ALIVE: u32 = 0x1000_0004;
/// Its answer, which names the request.
const LIVES: u32 = 0x8000_0005;
/// The request to end.
const EXIT: u32 = 0x1000_0005;
/// No word of a master is longer.
const WORD_MAX: usize = 4096;

pub(crate) mod hops;

/// A login that is shared by the streams. It ends when the last who has it drops it.
pub(crate) struct Master {
    pub(crate) known: Known,
    socket: PathBuf,
    line: std::os::unix::net::UnixStream,
    ended: watch::Receiver<bool>,
    /// The last request for a sign of life, and the last that was answered.
    asked: Mutex<u32>,
    answered: watch::Receiver<u32>,
}

impl Master {
    /// Logs in.
    pub(crate) async fn log_in(scope: &Scope, known: Known, hops: &Hops) -> Result<Arc<Self>, SshError> {
        let sockets = sockets().map_err(|reason| fault(&known, reason))?;
        let socket = sockets.join(&known.socket);
        start(&known, hops, &socket).await?;
        // It has let us in: what is wrong now is no reason to log in again and again.
        let lost = |error: std::io::Error| after_login(&known, format!("its master: {}", crate::error::words(&error)));
        let greeting = async {
            let mut line = UnixStream::connect(&socket).await?;
            word(&mut line).await?;
            line.into_std()
        };
        let line = match tokio::time::timeout(GREETING, greeting).await {
            Ok(line) => line.map_err(lost)?,
            Err(_) => return Err(lost(std::io::ErrorKind::TimedOut.into())),
        };
        send(&line, &HELLO).map_err(lost)?;
        let mut watched = line.try_clone().and_then(UnixStream::from_std).map_err(lost)?;
        let (over, ended) = watch::channel(false);
        let (lives, answered) = watch::channel(0);
        scope.spawn("watch the master of ssh", async move {
            while let Ok((kind, request)) = word(&mut watched).await {
                if kind == LIVES {
                    lives.send_replace(request);
                }
            }
            over.send_replace(true);
        });
        Ok(Arc::new(Self { known, socket, line, ended, asked: Mutex::new(0), answered }))
    }

    /// Waits until it has shown that it still does its work, which one that is about to end does not. It is asked by the
    /// line that we have: its socket may have been removed.
    pub(crate) async fn lives(&self) -> bool {
        let request = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked += 1;
            if send(&self.line, &[8, ALIVE, *asked]).is_err() {
                return false;
            }
            *asked
        };
        self.answered.clone().wait_for(|answered| *answered >= request).await.is_ok()
    }

    /// Where it listens.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// One whose socket was removed, as a session's end removes the directory of runtime files, carries on what it carries
    /// and is found by no child.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow() || self.ended.has_changed().is_err() || !self.socket.exists()
    }

    /// Waits for its end; why.
    pub(crate) async fn ended(&self) -> String {
        // An error says the same.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
        "the connection of the program ssh is gone".to_owned()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Nobody waits for the answer, and should it not be read the master ends a little later.
        let _ = send(&self.line, &[8, EXIT, 0]);
        let _ = self.line.shutdown(Shutdown::Write);
    }
}

/// Says numbers to a master, all or nothing of them: they fit where nearly nothing waits.
fn send(mut line: &std::os::unix::net::UnixStream, words: &[u32]) -> std::io::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    if line.write(&bytes)? == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

/// What a master says next: its kind and the number after that.
async fn word(line: &mut UnixStream) -> std::io::Result<(u32, u32)> {
    let length = usize::try_from(line.read_u32().await?).unwrap_or(usize::MAX);
    let (kind, number) = (line.read_u32().await?, line.read_u32().await?);
    let rest = length.checked_sub(8).filter(|rest| *rest <= WORD_MAX).ok_or(std::io::ErrorKind::InvalidData)?;
    line.read_exact(&mut vec![0; rest]).await?;
    Ok((kind, number))
}

/// Has a master made, and says what is wrong when there is none.
async fn start(known: &Known, hops: &Hops, socket: &Path) -> Result<(), SshError> {
    let mut command = ssh(known, socket);
    command.args(["-o", "ControlMaster=auto", "-o", &format!("ControlPersist={PERSIST}")]);
    let words_of_hops = socket.with_extension("said");
    if let Some(way) = hops.command(&words_of_hops).map(|way| format!("ProxyCommand={way}")).or_else(|| no_jump(known))
    {
        command.args(["-o", &way]);
    }
    // The ports that the user's own sessions open are no business of ours.
    command.args(["-f", "-N", "-o", "ClearAllForwardings=yes", "-o", "LogLevel=VERBOSE", "--", &known.server.host]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("LC_ALL", "C");
    let after = known.connect_timeout + FINGER;
    let mut running = command.spawn().map_err(|error| not_run(known, &error))?;
    let ended = tokio::time::timeout(after, end_of(&mut running)).await;
    let by_hops = std::fs::read(&words_of_hops).unwrap_or_default();
    // Most logins have no hops.
    let _ = std::fs::remove_file(&words_of_hops);
    let ended = ended.map_err(|_| SshError::Timeout {
        server: known.server.to_string(),
        after,
        step: "the login by the program ssh",
    })?;
    let (status, said) = ended.map_err(|error| fault(known, crate::error::words(&error)))?;
    if status.success() { Ok(()) } else { Err(failed(known, hops, status, &[by_hops, said].concat())) }
}

fn failed(known: &Known, hops: &Hops, status: ExitStatus, said: &[u8]) -> SshError {
    let text = String::from_utf8_lossy(said);
    if let Some(error) = text.lines().find_map(|line| hops.key_refusal(known, line)) {
        return error;
    }
    if let Some(error) = text.lines().find_map(|line| refusal(hops.refuses(known, line, &text), line)) {
        return error;
    }
    let is_in = text.lines().any(|line| line.starts_with(LET_IN));
    let last = last_line(said).filter(|line| !line.starts_with(LET_IN)).unwrap_or_else(|| status.to_string());
    if is_in { after_login(known, last) } else { fault(known, last) }
}

/// How a child ends, and what it says on standard error; of a process that it leaves behind nothing is awaited.
async fn end_of(child: &mut Child) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let (stderr, mut said) = (child.stderr.take(), Vec::new());
    let mut stderr = stderr.map(|stderr| stderr.take(WORDS_MAX));
    let mut piece = [0; 4096];
    loop {
        let words = async {
            match &mut stderr {
                Some(stderr) => stderr.read(&mut piece).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = words => match read {
                Ok(read @ 1..) => said.extend_from_slice(&piece[..read]),
                Ok(0) | Err(_) => stderr = None,
            },
            status = child.wait() => {
                if let Some(mut stderr) = stderr {
                    // Once more, for what came with the end.
                    let _ = tokio::time::timeout(LAST_WORDS, stderr.read_to_end(&mut said)).await;
                }
                return Ok((status?, said));
            }
        }
    }
}

/// One stream. `refused` is told when it is the server that does not let us in, and not the destination.
pub(crate) fn open(
    scope: &Scope,
    master: &Arc<Master>,
    host: &str,
    port: u16,
    refused: impl Fn(SshError) + Send + 'static,
) -> Result<Io, SshError> {
    let there = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let known = &master.known;
    let mut command = ssh(known, &master.socket);
    // A child that does not find its master would log in by itself, for this one stream: it is to fail.
    command.args(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"]);
    command.args(["-W", &there, "--", &known.server.host]).stderr(Stdio::piped());
    let (pipes, stderr) = Pipes::start(&mut command).map_err(|error| not_run(known, &error))?;
    if let Some(stderr) = stderr {
        let master = Arc::downgrade(master);
        let server = known.server.to_string();
        scope.spawn("words of ssh", async move {
            each_line(stderr, move |line| {
                tracing::warn!(server, "ssh: {}", printable(line));
                if let Some(error) = master.upgrade().and_then(|master| refusal(&master.known, line)) {
                    refused(error);
                }
            })
            .await;
        });
    }
    Ok(Io::other(pipes.carried_by(Arc::clone(master))))
}

fn ssh(known: &Known, socket: &Path) -> Command {
    let mut command = Command::new("ssh");
    withhold_secrets(&mut command);
    command.args(options(known)).args(["-o", "ExitOnForwardFailure=yes"]);
    command.args(["-o", &format!("ControlPath={}", quoted(socket))]);
    command
}

/// What it is told of each server.
fn options(known: &Known) -> Vec<String> {
    let own = &known.server.options;
    let mut words = arguments(&known.server);
    words.push("-T".to_owned());
    if let Some(key) = &own.key {
        words.extend(["-i".to_owned(), key.display().to_string()]);
    }
    let interval = known.settings.alive_interval.as_secs().max(1);
    let mut settings = vec![
        "BatchMode=yes".to_owned(),
        format!("ServerAliveInterval={interval}"),
        format!("ConnectTimeout={}", known.connect_timeout.as_secs().max(1)),
    ];
    if own.key.is_some() {
        settings.push("IdentitiesOnly=yes".to_owned());
    }
    settings.extend(own.known_hosts.as_ref().map(|file| format!("UserKnownHostsFile={}", quoted(file))));
    // Where nobody is asked it comes to the same, and the server whose key is not known is named.
    if known.settings.strict == StrictHostKeys::Ask {
        settings.push("StrictHostKeyChecking=yes".to_owned());
    }
    words.extend(settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]));
    words
}

/// A path as one word of a setting, whatever letters it has; `%` begins a token there.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

/// A directory that only we can enter, the same for all our processes. A socket's name is short, so it is not below the
/// home. It is made again when it is gone.
fn sockets() -> Result<PathBuf, String> {
    static DIRECTORY: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut directory = DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = directory.as_ref().filter(|path| is_ours(path)) {
        return Ok(path.clone());
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|base| base.is_dir());
    let base = base.unwrap_or_else(std::env::temp_dir);
    let path = private(&base)?;
    *directory = Some(path.clone());
    Ok(path)
}

fn private(base: &Path) -> Result<PathBuf, String> {
    let make = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
    let fault = |path: &Path, error: &std::io::Error| format!("{}: {}", path.display(), crate::error::words(error));
    let path = base.join(format!("adit-ssh-{}", rustix::process::geteuid().as_raw()));
    match make(&path) {
        Ok(()) => return Ok(path),
        Err(_) if is_ours(&path) => return Ok(path),
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(fault(&path, &error)),
        // Somebody else's, where everybody may make some: then a name that nobody can guess.
        Err(_) => {}
    }
    let path = base.join(format!("adit-ssh-{:08x}", rand::random::<u32>()));
    make(&path).map(|()| path.clone()).map_err(|error| fault(&path, &error))
}

fn is_ours(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|found| {
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0
    })
}

fn fault(known: &Known, reason: String) -> SshError {
    SshError::Command { server: known.server.to_string(), command: "ssh".to_owned(), reason, logged_in: false }
}

/// What failed though the server has let us in.
fn after_login(known: &Known, reason: String) -> SshError {
    SshError::Command { server: known.server.to_string(), command: "ssh".to_owned(), reason, logged_in: true }
}

fn not_run(known: &Known, error: &std::io::Error) -> SshError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return fault(known, crate::error::words(error));
    }
    let why = known.only_openssh.unwrap_or("backend: openssh");
    SshError::Settings {
        server: known.server.to_string(),
        reason: format!("{why} needs the program `ssh`, which is not found on PATH"),
        hint: "install OpenSSH's client".to_owned(),
    }
}

/// What a line of `ssh` says of the server; `None` when it is about something else.
fn refusal(known: &Known, line: &str) -> Option<SshError> {
    let server = known.server.to_string();
    let has = |words: &[&str]| words.iter().any(|words| line.contains(words));
    if has(&["Permission denied (", "Too many authentication failures"]) {
        return Some(SshError::Refused {
            hint: format!("see why with `ssh -v {server}`"),
            server,
            user: known.settings.user.clone(),
            tried: "what the program ssh has".to_owned(),
            allowed: last_line(line.as_bytes()).unwrap_or_default(),
        });
    }
    if has(&["Host key verification failed"]) {
        return Some(SshError::BadKey { server, reason: "the program ssh does not accept it".to_owned() });
    }
    let is_away = ["ssh: connect to host ", "ssh: Could not resolve hostname ", "kex_exchange_identification: "];
    let is_away = is_away.iter().any(|words| line.starts_with(words)) || has(&["timed out during banner exchange"]);
    is_away.then(|| fault(known, last_line(line.as_bytes()).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_our_processes_have_one_directory_and_it_is_ours() {
        use std::os::unix::fs::PermissionsExt as _;
        let base = tempfile::tempdir().unwrap();
        let path = private(base.path()).unwrap();
        assert_eq!(private(base.path()).unwrap(), path);
        // Others may enter it: not that one.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let other = private(base.path()).unwrap();
        assert!(other != path && is_ours(&other));
        // Nor one that a link leads to.
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(private(base.path()).unwrap() != path);
    }

    #[tokio::test]
    async fn a_login_that_was_good_for_nothing_is_made_at_the_pace_of_refused_ones() {
        use std::os::unix::process::ExitStatusExt as _;
        let server = adit_core::target::SshServer::parse("me@bastion.example").unwrap();
        let known = Known::of(&Scope::root(), &server).await.unwrap();
        let hops = Hops::of(&Scope::root(), &known).await.unwrap();
        let error = |said: &str| failed(&known, &hops, ExitStatus::from_raw(255 << 8), said.as_bytes());
        let in_vain = error("Authenticated to b ([::1]:22) using \"publickey\".\nFailed to connect to new master\n");
        assert!(in_vain.is_login() && in_vain.to_string().ends_with("Failed to connect to new master"), "{in_vain}");
        let silent = error("Authenticated to b ([::1]:22) using \"publickey\".\n");
        assert!(silent.is_login() && silent.to_string().ends_with("exit status: 255"), "{silent}");
        assert!(!error("ssh: connect to host b port 22: Connection refused\n").is_login());
        assert!(error("me@b: Permission denied (publickey).\n").is_login());
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/50%\"\\")), r#""/a b/50%%\"\\""#);
    }
}
