//! Keys of a real `ssh-agent`.

use std::path::PathBuf;
use std::process::Command;

use adit_core::target::SshOptions;
use testkit::process::Process;

use super::bed::SshBed;
use crate::support::{DEADLINE, call, eventually, refusal};

/// An agent, ended when this is dropped.
struct Agent {
    socket: PathBuf,
    _process: Process,
}

impl Agent {
    async fn start(bed: &SshBed) -> Self {
        let socket = bed.sshd.path("agent");
        let process = Process::start(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket)).unwrap();
        eventually(DEADLINE, "the agent listens", || socket.exists()).await;
        Self { socket, _process: process }
    }

    fn add(&self, key: &std::path::Path) {
        let mut command = Command::new("ssh-add");
        command.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket);
        let (status, said) = testkit::process::run(&mut command, b"", DEADLINE).unwrap();
        assert!(status.success(), "{}", said.output());
    }

    /// Options that ask this agent, with more lines.
    fn options(&self, bed: &SshBed, lines: &str) -> SshOptions {
        let config = bed.config(&format!("Host *\n  IdentityAgent {}\n{lines}", self.socket.display()));
        SshOptions { key: None, config: Some(config), ..bed.options() }
    }
}

/// Several keys that the server does not know, then the one that it does, which is in the agent only.
async fn crowded(bed: &SshBed) -> (Agent, PathBuf) {
    let agent = Agent::start(bed).await;
    for name in ["a", "b", "c"] {
        agent.add(&bed.sshd.make_key(name, "ed25519", ""));
    }
    agent.add(&bed.sshd.key());
    std::fs::remove_file(bed.sshd.key()).unwrap();
    (agent, bed.sshd.path("id.pub"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_agent_logs_in() {
    let bed = SshBed::new().await;
    let (agent, _) = crowded(&bed).await;
    call(&bed.forward_with(agent.options(&bed, "  IdentityFile none\n"))).await;
    // One that is not configured is not offered when only those are wanted.
    let only = agent.options(&bed, "  IdentityFile /nowhere\n  IdentitiesOnly yes\n");
    refusal(&bed.forward_with(only)).await.has(&["refused the login"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_key_names_the_one_of_the_agent() {
    // Two tries: the right one must come first.
    let bed = SshBed::with(&["MaxAuthTries 2"]).await;
    let (agent, public) = crowded(&bed).await;
    let lines = format!("  IdentityFile {}\n  IdentitiesOnly yes\n", public.display());
    call(&bed.forward_with(agent.options(&bed, &lines))).await;
    // The same by `key`.
    let options = SshOptions { key: Some(public.clone()), ..agent.options(&bed, "") };
    call(&bed.forward_with(options)).await;
    // A public key alone logs nobody in, and that is said.
    let nobody = SshOptions { key: Some(public), ..bed.options() };
    refusal(&bed.forward_with(nobody)).await.has(&["a public key, and no agent has the private one"], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_agent_and_of_a_file_is_offered_once() {
    let bed = SshBed::new().await;
    let agent = Agent::start(&bed).await;
    let key = bed.sshd.make_key("stranger", "ed25519", "");
    // The agent's comment is the old one.
    agent.add(&key);
    bed.sshd.keygen(&["-q", "-c", "-C", "another comment", "-P", "", "-f", "stranger"]);
    let options = SshOptions { key: Some(key), ..agent.options(&bed, "") };
    refusal(&bed.forward_with(options)).await.has(&["of the agent"], &[]);
    let offers = bed.sshd.log().matches("Failed publickey").count();
    assert_eq!(offers, 1, "{}", bed.sshd.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_offence_at_so_many_keys_is_told_as_such() {
    let bed = SshBed::with(&["MaxAuthTries 3"]).await;
    let (agent, _) = crowded(&bed).await;
    let refused = refusal(&bed.forward_with(agent.options(&bed, "  IdentityFile none\n"))).await;
    refused.has(&["refused the login"], &["so many keys", "IdentitiesOnly"]);
}
