//! Network namespaces with links between them: where addresses, links and routes may be changed as in real life.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// A network namespace of its own, as long as this is there.
#[derive(Debug)]
pub struct Network(Child);

impl Network {
    /// A new one; `None` where that is not permitted, which only root is.
    pub fn new() -> Option<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "sh", "-c", "ip link set lo up && echo in && read line"]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut network = Self(unshare.spawn().ok()?);
        let mut line = String::new();
        let said = BufReader::new(network.0.stdout.take()?).read_line(&mut line);
        said.is_ok_and(|_| line == "in\n").then_some(network)
    }

    /// The process that it belongs to, as `ip` wants to know it.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// A program in it.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }

    /// The same as `other`, in it.
    ///
    /// # Panics
    /// When the program has no name that is text.
    pub fn with(&self, other: &Command) -> Command {
        let mut command = self.inside(other.get_program().to_str().expect("a program's name is text"));
        command.args(other.get_args());
        if let Some(directory) = other.get_current_dir() {
            command.current_dir(directory);
        }
        for (name, value) in other.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Runs `ip` in it.
    ///
    /// # Panics
    /// When that fails.
    pub fn ip(&self, arguments: &str) {
        ip(self.inside("ip").args(arguments.split(' ')));
    }

    /// A link to another one, with an address at each end.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn link(&self, name: &str, ours: &str, other: &Self, theirs: &str) {
        let (us, them) = (self.0.id(), other.0.id());
        let link = format!("link add {name} netns {us} type veth peer name {name} netns {them}");
        ip(Command::new("ip").args(link.split(' ')));
        for (network, address) in [(self, ours), (other, theirs)] {
            network.ip(&format!("address add {address}/24 dev {name}"));
        }
        other.ip(&format!("link set {name} up"));
    }

    /// Its way out is by this link from now on.
    ///
    /// # Panics
    /// When there is no such link.
    pub fn join(&self, name: &str, gateway: &str) {
        self.ip(&format!("link set {name} up"));
        self.ip(&format!("route replace default via {gateway}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Ours: it is a child that was not waited for.
        let _ = self.0.kill();
        let _: io::Result<_> = self.0.wait();
    }
}

fn ip(command: &mut Command) {
    let output = command.output().expect("ip runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
