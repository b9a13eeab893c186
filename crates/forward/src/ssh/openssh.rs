//! Child processes `ssh -W HOST:PORT`, one for each stream, for what only OpenSSH can do. The first one of a server
//! becomes the master of the others, so that there is one login.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use runtime::Scope;
use runtime::connect::Io;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::error::SshError;
use super::settings::{Known, arguments, last_line};
use super::transport::Pipes;

/// The master outlives its last stream by this.
const PERSIST: &str = "60";
/// What a login may take beyond the time to connect: a key in hardware waits for a finger.
const FINGER: Duration = Duration::from_secs(60);

/// Logs in, so that what is wrong is told at the start. The master stays for the streams.
pub(crate) async fn check(known: &Known) -> Result<(), SshError> {
    let mut command = ssh(known)?;
    command.args(["--", &known.server.host, "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    // A server may allow forwarding and no commands: then only the login counts.
    command.env("LC_ALL", "C");
    let after = known.connect_timeout + FINGER;
    let running = command.spawn().map_err(|error| not_run(known, &error))?;
    let output = tokio::time::timeout(after, running.wait_with_output()).await;
    let output = output.map_err(|_| SshError::Timeout {
        server: known.server.to_string(),
        after,
        step: "the login by the program ssh",
    })?;
    let output = output.map_err(|error| fault(known, crate::error::words(&error)))?;
    // 255 is ssh's own; anything else is the command's.
    if output.status.code() == Some(255) {
        let text = String::from_utf8_lossy(&output.stderr);
        let said = last_line(&output.stderr).unwrap_or_else(|| output.status.to_string());
        return Err(text.lines().find_map(|line| refusal(known, line)).unwrap_or_else(|| fault(known, said)));
    }
    Ok(())
}

/// One stream. `refused` is told when it is the server that does not let us in, and not the destination.
pub(crate) fn open(
    scope: &Scope,
    known: &Arc<Known>,
    host: &str,
    port: u16,
    refused: impl Fn(SshError) + Send + 'static,
) -> Result<Io, SshError> {
    let there = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut command = ssh(known)?;
    command.args(["-W", &there, "--", &known.server.host]).stderr(Stdio::piped());
    let (pipes, stderr) = Pipes::start(&mut command).map_err(|error| not_run(known, &error))?;
    if let Some(stderr) = stderr {
        let known = Arc::clone(known);
        scope.spawn("words of ssh", async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::warn!(server = %known.server, "ssh: {line}");
                if let Some(error) = refusal(&known, &line) {
                    refused(error);
                }
            }
        });
    }
    let sockets = sockets().map_err(|reason| fault(known, reason))?;
    Ok(Io::other(pipes.carried_by(sockets.join(&known.socket))))
}

fn ssh(known: &Known) -> Result<Command, SshError> {
    let options = &known.server.options;
    let mut command = Command::new("ssh");
    command.args(arguments(&known.server)).args(["-T", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]);
    let interval = known.settings.alive_interval.as_secs().max(1);
    command.args(["-o", &format!("ServerAliveInterval={interval}")]);
    command.args(["-o", &format!("ConnectTimeout={}", known.connect_timeout.as_secs().max(1))]);
    if let Some(jump) = &options.jump {
        command.args(["-J", jump]);
    }
    if let Some(key) = &options.key {
        command.arg("-i").arg(key).args(["-o", "IdentitiesOnly=yes"]);
    }
    if let Some(file) = &options.known_hosts {
        command.args(["-o", &format!("UserKnownHostsFile={}", quoted(file))]);
    }
    let sockets = sockets().map_err(|reason| fault(known, reason))?;
    let path = format!("ControlPath={}", quoted(&sockets.join(&known.socket)));
    command.args(["-o", "ControlMaster=auto", "-o", &path, "-o", &format!("ControlPersist={PERSIST}")]);
    Ok(command)
}

/// A path as one word of a setting, whatever letters it has; `%` begins a token there.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

/// A directory that only we can enter, the same for all our processes. A socket's name is short, so it is not below the
/// home.
fn sockets() -> Result<PathBuf, String> {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = DIRECTORY.get() {
        return Ok(path.clone());
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|base| base.is_dir());
    let base = base.unwrap_or_else(std::env::temp_dir);
    let path = private(&base)?;
    Ok(DIRECTORY.get_or_init(|| path).clone())
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
    SshError::Command { server: known.server.to_string(), command: "ssh".to_owned(), reason }
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

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/50%\"\\")), r#""/a b/50%%\"\\""#);
    }
}
