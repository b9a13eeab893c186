//! Credential plugins: programs that print an `ExecCredential` (client.authentication.k8s.io/v1).
//!
//! kube-rs runs them as well, but blocking, without a deadline, twice for each client, and finds them on `PATH`
//! only; a desktop's or a service's `PATH` rarely has them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::secret::Secret;
use adit_core::timestamp;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::kubeconfig::expand;
use crate::ssh::ask::withhold_secrets;

/// A plugin may ask a person to log in with a browser.
const DEADLINE: Duration = Duration::from_secs(180);
/// A credential with certificates is some kilobytes.
const OUTPUT_MAX: u64 = 1 << 20;
/// The last words of a plugin that failed.
const LAST_WORDS: usize = 3;
/// Characters of a line that are repeated.
const LINE_MAX: usize = 2000;

/// A plugin that was found.
#[derive(Clone)]
pub(crate) struct ExecPlugin {
    exec: ExecConfig,
    command: PathBuf,
    search: OsString,
}

impl fmt::Debug for ExecPlugin {
    // Its environment may hold secrets (S6).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecPlugin").field("command", &self.command).finish_non_exhaustive()
    }
}

/// What a plugin gave.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    /// A bearer token.
    pub(crate) token: Option<Secret<String>>,
    /// A client certificate and its key, both PEM.
    pub(crate) certificate: Option<(String, Secret<String>)>,
    /// When it ends; `None`: not said.
    pub(crate) expires: Option<SystemTime>,
}

impl ExecPlugin {
    /// Looks for the program: an absolute or relative path as it is, a name on `PATH`, in the usual places and in
    /// `exec_path`.
    pub(crate) fn find(exec: ExecConfig, exec_path: &[PathBuf]) -> Result<Self, PluginError> {
        let name = exec.command.clone().filter(|command| !command.is_empty()).ok_or(PluginError::Unnamed)?;
        let hint = exec.install_hint.clone();
        let directories = search_path(exec_path);
        let search = std::env::join_paths(&directories).unwrap_or_default();
        match program_in(&name, &directories) {
            Some(command) => Ok(Self { exec, command, search }),
            None => Err(PluginError::NotFound { command: name, install_hint: hint }),
        }
    }

    /// Runs it and reads what it prints. What it says on standard error goes to the log as it comes, as it may
    /// ask a person to do something.
    pub(crate) async fn run(&self) -> Result<Credential, PluginError> {
        let name = self.name();
        let mut child =
            self.command().spawn().map_err(|source| PluginError::Start { command: name.clone(), source })?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(PluginError::Failed { command: name, status: "it has no output".into(), said: String::new() });
        };
        // Its end closes the pipe, so that a plugin that prints without end does not wait for us for ever.
        let reading = async move {
            let mut output = Vec::new();
            stdout.take(OUTPUT_MAX).read_to_end(&mut output).await.map(|_| output)
        };
        let work = async { tokio::join!(reading, last_words(&name, stderr), child.wait()) };
        let Ok((output, said, status)) = tokio::time::timeout(DEADLINE, work).await else {
            return Err(PluginError::Timeout { command: name, after: DEADLINE });
        };
        let output = output.map_err(|source| PluginError::Start { command: name.clone(), source })?;
        if output.len() as u64 == OUTPUT_MAX {
            return Err(PluginError::Rubbish { command: name, reason: format!("more than {OUTPUT_MAX} bytes") });
        }
        let status = status.map_err(|source| PluginError::Start { command: name.clone(), source })?;
        if !status.success() {
            return Err(PluginError::Failed { command: name, status: status.to_string(), said });
        }
        parse(&name, &output)
    }

    /// The program's name, for messages.
    pub(crate) fn name(&self) -> String {
        self.command
            .file_name()
            .map_or_else(|| self.command.display().to_string(), |n| n.to_string_lossy().into_owned())
    }

    fn command(&self) -> Command {
        let interactive =
            self.exec.interactive_mode != Some(ExecInteractiveMode::Never) && rustix::termios::isatty(std::io::stdin());
        let info = serde_json::json!({
            "apiVersion": self.exec.api_version.as_deref().unwrap_or("client.authentication.k8s.io/v1"),
            "kind": "ExecCredential",
            "spec": { "interactive": interactive, "cluster": self.exec.cluster },
        });
        let mut command = Command::new(&self.command);
        withhold_secrets(&mut command);
        command
            .args(self.exec.args.iter().flatten())
            .env("PATH", &self.search)
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .envs(self.exec.env.iter().flatten().filter_map(variable))
            .stdin(if interactive { Stdio::inherit() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for name in self.exec.drop_env.iter().flatten() {
            command.env_remove(name);
        }
        command
    }
}

/// Where a plugin's program is.
pub(crate) fn program(name: &str, exec_path: &[PathBuf]) -> Option<PathBuf> {
    program_in(name, &search_path(exec_path))
}

fn program_in(name: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 {
        return Some(path.to_owned()).filter(|path| path.is_file());
    }
    directories.iter().map(|directory| directory.join(path)).find(|candidate| is_program(candidate))
}

fn variable(entry: &HashMap<String, String>) -> Option<(&String, &String)> {
    Some((entry.get("name")?, entry.get("value")?))
}

/// `PATH`, then where package managers put programs that a service's `PATH` lacks, then the user's own list.
fn search_path(exec_path: &[PathBuf]) -> Vec<PathBuf> {
    const USUAL: &[&str] = if cfg!(target_os = "macos") {
        &["/opt/homebrew/bin", "/opt/homebrew/sbin", "/usr/local/bin", "/usr/local/sbin", "~/bin", "~/.local/bin"]
    } else {
        &["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/bin", "/snap/bin", "~/bin", "~/.local/bin", "~/.krew/bin"]
    };
    let mut directories: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let more = USUAL.iter().map(|usual| expand(PathBuf::from(usual))).chain(exec_path.iter().cloned().map(expand));
    for directory in more {
        if !directories.contains(&directory) && directory.is_dir() {
            directories.push(directory);
        }
    }
    directories
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Passes the lines on to the log and keeps the last ones.
async fn last_words(name: &str, stderr: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut limited = BufReader::new(stderr.take(OUTPUT_MAX));
    let mut lines = (&mut limited).lines();
    let mut kept: Vec<String> = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = shown(&line);
        if line.is_empty() {
            continue;
        }
        tracing::warn!("{name}: {line}");
        if kept.len() == LAST_WORDS {
            kept.remove(0);
        }
        kept.push(line);
    }
    // Whoever says more is not held up by that.
    let _ = tokio::io::copy(&mut limited.into_inner().into_inner(), &mut tokio::io::sink()).await;
    kept.join("; ")
}

/// A line without what a terminal would obey. Addresses to log in at are long.
fn shown(line: &str) -> String {
    let visible: String = line.chars().filter(|c| !c.is_control()).take(LINE_MAX).collect();
    visible.trim().to_owned()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    status: Option<PrintedStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrintedStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

fn parse(command: &str, output: &[u8]) -> Result<Credential, PluginError> {
    let rubbish = |reason: &str| PluginError::Rubbish { command: command.to_owned(), reason: reason.to_owned() };
    // serde's texts do not repeat values, so no part of a token gets into the message.
    let printed: Printed = serde_json::from_slice(output).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof if output.is_empty() => rubbish("it printed nothing"),
        _ => rubbish(&format!("no JSON at line {}, column {}", error.line(), error.column())),
    })?;
    let status = printed.status.ok_or_else(|| rubbish("there is no `status` in it"))?;
    let expires = match status.expiration_timestamp.as_deref() {
        None => None,
        Some(text) => Some(timestamp::parse(text).ok_or_else(|| rubbish("`expirationTimestamp` is no time"))?),
    };
    let certificate = match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => Some((certificate, Secret::new(key))),
        (None, None) => None,
        _ => return Err(rubbish("it has a certificate without a key, or a key without a certificate")),
    };
    let token = status.token.filter(|token| !token.is_empty()).map(Secret::new);
    if token.is_none() && certificate.is_none() {
        return Err(rubbish("it has neither a token nor a certificate"));
    }
    Ok(Credential { token, certificate, expires })
}

/// Why a plugin gave no credential.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The kubeconfig names no command.
    #[error("the kubeconfig names no command for it")]
    Unnamed,
    /// The program is nowhere.
    #[error("`{command}` is not on PATH")]
    NotFound {
        /// The program.
        command: String,
        /// What the kubeconfig says about installing it.
        install_hint: Option<String>,
    },
    /// The system did not run it.
    #[error("`{command}` could not be run")]
    Start {
        /// The program.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` failed ({status}){}", after_colon(said))]
    Failed {
        /// The program.
        command: String,
        /// How it ended.
        status: String,
        /// Its last lines on standard error.
        said: String,
    },
    /// It printed something else than a credential.
    #[error("`{command}` printed no credential: {reason}")]
    Rubbish {
        /// The program.
        command: String,
        /// What is wrong.
        reason: String,
    },
    /// It did not end.
    #[error("`{command}` did not end within {after:?}")]
    Timeout {
        /// The program.
        command: String,
        /// The deadline.
        after: Duration,
    },
}

fn after_colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

impl Diagnose for PluginError {
    fn fault(&self) -> Fault {
        match self {
            Self::Unnamed | Self::NotFound { .. } => Fault::Config,
            Self::Start { .. } | Self::Failed { .. } | Self::Rubbish { .. } | Self::Timeout { .. } => Fault::Auth,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unnamed => Some("set `users[].user.exec.command` in the kubeconfig".into()),
            Self::NotFound { install_hint: Some(hint), .. } => Some(hint.trim().to_owned()),
            Self::NotFound { command, .. } => {
                Some(format!("install `{command}`, or name its directory in `kubernetes.exec_path` of adit.yaml"))
            }
            Self::Start { .. } => Some("check that the file may be executed by this user".into()),
            Self::Failed { command, .. } | Self::Rubbish { command, .. } | Self::Timeout { command, .. } => {
                Some(format!("run `{command}` by hand, as the kubeconfig does; logging in again often helps"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_its_end_is_read() {
        let text = br#"{"kind":"ExecCredential","status":{"token":"t","expirationTimestamp":"2030-01-01T00:00:00Z"}}"#;
        let credential = parse("p", text).unwrap();
        assert_eq!(credential.token.unwrap().expose(), "t");
        assert!(credential.expires.is_some());
    }

    #[test]
    fn rubbish_is_told_without_repeating_it() {
        for text in [
            "",
            "hunter2",
            r#"{"status":{"token":12345}}"#,
            "{}",
            r#"{"status":{}}"#,
            r#"{"status":{"clientKeyData":"hunter2"}}"#,
        ] {
            let error = parse("p", text.as_bytes()).unwrap_err();
            assert!(matches!(error, PluginError::Rubbish { .. }), "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.hint().is_some());
        }
    }

    fn script(directory: &Path, body: &str) -> ExecConfig {
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        ExecConfig { command: Some("plugin".into()), ..ExecConfig::default() }
    }

    #[tokio::test]
    async fn a_plugin_is_found_in_exec_path_and_run() {
        let directory = tempfile::tempdir().unwrap();
        let exec = script(
            directory.path(),
            r#"echo "{\"status\":{\"token\":\"from-$KUBERNETES_EXEC_INFO\"}}" | tr -d '\n' | sed 's/from-.*/ok"}}/'"#,
        );
        let plugin = ExecPlugin::find(exec, &[directory.path().to_owned()]).unwrap();
        assert_eq!(plugin.run().await.unwrap().token.unwrap().expose(), "ok");
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let exec = script(directory.path(), "echo 'please log in' >&2; exit 3");
        let plugin = ExecPlugin::find(exec, &[directory.path().to_owned()]).unwrap();
        let error = plugin.run().await.unwrap_err().to_string();
        assert!(error.contains("please log in") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_plugin_that_is_nowhere_is_named_with_its_install_hint() {
        let exec = ExecConfig {
            command: Some("no-such-plugin-adit".into()),
            install_hint: Some("get it".into()),
            ..ExecConfig::default()
        };
        let error = ExecPlugin::find(exec, &[]).unwrap_err();
        assert_eq!(error.to_string(), "`no-such-plugin-adit` is not on PATH");
        assert_eq!(error.hint().unwrap(), "get it");
    }
}
