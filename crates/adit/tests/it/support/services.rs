//! Real servers and their own clients.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::process::{self, Process};

use super::DEADLINE;

/// Where distributions put programs that are not on everybody's path.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: run ./dev setup"))
}

pub(crate) fn run(command: &mut Command) -> String {
    let (status, process) = process::run(command, b"", DEADLINE).expect("the program runs");
    assert!(status.success(), "{command:?}: {}", process.output());
    process.stdout()
}

/// A command run by an ordinary user: PostgreSQL refuses to work for root.
fn as_ordinary_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "nobody", "--"]).arg(program);
    command
}

/// A PostgreSQL server in a directory of its own.
pub(crate) struct Postgres {
    process: Process,
    pub(crate) port: u16,
    _dir: TempDir,
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // The ordinary user must be able to write in it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("its mode");
        let data = dir.path().join("data");
        let mut initdb = as_ordinary_user(&program("initdb"));
        initdb.args(["--auth=trust", "--username=app", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        run(initdb.arg("-D").arg(&data).current_dir(dir.path()));
        let port = process::free_port().expect("a free port");
        let mut command = as_ordinary_user(&program("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(dir.path()).current_dir(dir.path());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", &port.to_string()]);
        let process = Process::start(&mut command).expect("postgres starts");
        process.line(DEADLINE, |line| line.contains("ready to accept connections")).await.expect("postgres is ready");
        Self { process, port, _dir: dir }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its own children end in order then; killed, they would be left behind.
        for pid in process::tree(self.process.pid()).into_iter().rev() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, process::Signal::INT));
        }
        let _ = self.process.wait(DEADLINE);
    }
}

/// What `psql` prints for a statement, asked at a port of this machine.
pub(crate) fn psql(port: u16, statement: &str) -> String {
    let mut command = Command::new(program("psql"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app", "-d", "postgres"]);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]);
    run(command.env("PGCONNECT_TIMEOUT", "10")).trim().to_owned()
}

/// A Redis server in a directory of its own.
pub(crate) struct Redis {
    _process: Process,
    pub(crate) port: u16,
    _dir: TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = process::free_port().expect("a free port");
        let mut command = Command::new(program("redis-server"));
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
        let process = Process::start(command.arg("--dir").arg(dir.path())).expect("redis starts");
        process.line(DEADLINE, |line| line.contains("eady to accept connections")).await.expect("redis is ready");
        Self { _process: process, port, _dir: dir }
    }
}

/// What `redis-cli` prints, asked at a port of this machine.
pub(crate) fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(program("redis-cli"));
    run(command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments))
}
