//! Real servers of databases on loopback, each in a directory of its own, and their own clients.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Process, Signal};

/// How long a server may take to start, or a client to end, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long making a new MariaDB's tables may take.
const INSTALL: Duration = Duration::from_secs(120);

/// The path of a program, also where distributions put those that are not on everybody's path.
///
/// # Panics
/// When it is not installed.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: run ./dev setup"))
}

/// What a command prints on stdout.
///
/// # Panics
/// When it does not end in time, or fails.
pub fn run(command: &mut Command) -> String {
    output_within(command, DEADLINE)
}

fn output_within(command: &mut Command, deadline: Duration) -> String {
    let (status, process) = process::run(command, b"", deadline).expect("the program runs");
    assert!(status.success(), "{command:?}: {}", process.output());
    process.stdout()
}

/// A command run by an ordinary user: some servers refuse to work for root.
fn as_ordinary_user(name: &str) -> Command {
    let program = program(name);
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "nobody", "--"]).arg(program);
    command
}

/// A directory in which everybody may write, so that a server which runs as another user may, too.
///
/// # Panics
/// When it cannot be made.
pub fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
    dir
}

/// Ends a server and its children in order; killed, they would leave shared memory behind.
fn end(process: &Process, signal: Signal) {
    for pid in process::tree(process.pid()).into_iter().rev() {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
    }
    let _ = process.wait(DEADLINE);
}

/// A PostgreSQL server with a superuser `app`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Postgres {
    /// Starts one that lets everybody of this machine in.
    ///
    /// # Panics
    /// When PostgreSQL is not installed, see `./dev setup`, or does not start.
    pub async fn start() -> Self {
        Self::start_with("trust", "none", &[]).await
    }

    /// Starts one that lets in by `method` of `pg_hba.conf`; `password` is the one of `app`, `settings` are more
    /// arguments of `postgres`.
    ///
    /// # Panics
    /// When PostgreSQL is not installed, see `./dev setup`, or does not start.
    pub async fn start_with(method: &str, password: &str, settings: &[&str]) -> Self {
        let dir = open_dir();
        let data = dir.path().join("data");
        let secret = dir.path().join("initial");
        fs::write(&secret, format!("{password}\n")).expect("a file is written");
        let mut initdb = as_ordinary_user("initdb");
        initdb.args(["--username=app", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.arg(format!("--auth={method}")).arg("--pwfile").arg(&secret).arg("-D").arg(&data);
        run(initdb.current_dir(dir.path()));
        let port = process::free_port().expect("a free port");
        let mut command = as_ordinary_user("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(dir.path()).current_dir(dir.path());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", &port.to_string()]).args(settings);
        let process = Process::start(&mut command).expect("postgres starts");
        process.line(DEADLINE, |line| line.contains("ready to accept connections")).await.expect("postgres is ready");
        Self { process, port, dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        end(&self.process, Signal::INT);
    }
}

/// What `psql` prints for a statement, asked at a port of this machine.
///
/// # Panics
/// When it fails.
pub fn psql(port: u16, statement: &str) -> String {
    let mut command = Command::new(program("psql"));
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "app", "-d", "postgres"]);
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]);
    run(command.env("PGCONNECT_TIMEOUT", "10")).trim().to_owned()
}

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    _process: Process,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts one; `lines` are its configuration.
    ///
    /// # Panics
    /// When Redis is not installed, see `./dev setup`, or does not start.
    pub async fn start(lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = process::free_port().expect("a free port");
        let config = dir.path().join("redis.conf");
        fs::write(&config, lines.join("\n")).expect("a file is written");
        let mut command = Command::new(program("redis-server"));
        command.arg(&config).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--port", &port.to_string(), "--dir"]).arg(dir.path());
        let process = Process::start(&mut command).expect("redis starts");
        process.line(DEADLINE, |line| line.contains("eady to accept connections")).await.expect("redis is ready");
        Self { _process: process, port, dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// What `redis-cli` prints, asked at a port of this machine.
///
/// # Panics
/// When it fails.
pub fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(program("redis-cli"));
    run(command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments))
}

/// librdkafka's own broker: a cluster of mocks, which its client `kcat` has inside.
#[derive(Debug)]
pub struct LibrdKafka {
    _process: Process,
    addr: SocketAddr,
}

impl LibrdKafka {
    /// Starts so many brokers.
    ///
    /// # Panics
    /// When `kcat` is not installed, see `./dev setup`, or does not start.
    pub async fn start(brokers: u8) -> Self {
        let mut command = Command::new(program("kcat"));
        // The address it is told to use is never used. It reads a topic for as long as it runs.
        command.args(["-b", "127.0.0.1:1", "-d", "mock", "-X", &format!("test.mock.num.brokers={brokers}")]);
        command.args(["-C", "-t", "adit"]);
        let process = Process::start(&mut command).expect("kcat starts");
        let line = process.line(DEADLINE, |line| line.contains("bootstrap.servers=")).await.expect("a mock cluster");
        let servers = line.rsplit("bootstrap.servers=").next().unwrap_or_default();
        let addr = servers.split(',').next().and_then(|server| server.trim().parse().ok());
        Self { _process: process, addr: addr.unwrap_or_else(|| panic!("no address in {line}")) }
    }

    /// Where its first broker listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A MariaDB server whose `root` needs no password.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl MariaDb {
    /// Starts one; `settings` are more arguments of `mariadbd`.
    ///
    /// # Panics
    /// When MariaDB is not installed, see `./dev setup`, or does not start.
    pub async fn start(settings: &[&str]) -> Self {
        let dir = open_dir();
        let data = format!("--datadir={}", dir.path().join("data").display());
        let mut install = as_ordinary_user("mariadb-install-db");
        install.args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"]);
        // Two of them that have the same numbers take each other's tables away in a common one.
        output_within(install.current_dir(dir.path()).env("TMPDIR", dir.path()), INSTALL);
        let port = process::free_port().expect("a free port");
        let mut command = as_ordinary_user("mariadbd");
        command.args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0"]);
        command.arg(format!("--socket={}", dir.path().join("socket").display())).arg(format!("--port={port}"));
        command.args(settings).current_dir(dir.path()).env("TMPDIR", dir.path());
        let process = Process::start(&mut command).expect("mariadb starts");
        process.line(INSTALL, |line| line.contains("ready for connections")).await.expect("mariadb is ready");
        Self { process, port, dir }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// What its own client prints for a statement, asked by its socket in the file system.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, statement: &str) -> String {
        let mut command = mariadb("root", statement);
        run(command.arg(format!("--socket={}", self.dir.path().join("socket").display())))
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        end(&self.process, Signal::TERM);
    }
}

/// MariaDB's client with a statement; where to ask is still to be said, by `--socket` or `--host` and `--port`.
pub fn mariadb(user: &str, statement: &str) -> Command {
    let mut command = Command::new(program("mariadb"));
    command.args(["--no-defaults", "-u", user, "-N", "-B", "-e", statement]);
    command
}
