//! Redis and PostgreSQL, real ones, through a tunnel with their own clients.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::process::{self, Process};

use crate::support::{DEADLINE, Publish, Server};

/// Where distributions put programs that are not on everybody's path.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: run ./dev setup"))
}

fn run(command: &mut Command) -> String {
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

#[tokio::test]
async fn redis_works_through_a_tunnel() {
    let dir = tempfile::tempdir().unwrap();
    let port = process::free_port().unwrap();
    let mut command = Command::new(program("redis-server"));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    let redis = Process::start(command.arg("--dir").arg(dir.path())).unwrap();
    redis.line(DEADLINE, |line| line.contains("eady to accept connections")).await.unwrap();
    let server = Server::setup().tcp_ports().start().await;
    let agent = Publish::to(&server).tcp(SocketAddr::from(([127, 0, 0, 1], port)), 0).start().await;
    let public = agent.port().port().to_string();
    let cli = |arguments: &[&str]| {
        let mut command = Command::new(program("redis-cli"));
        run(command.args(["-h", "127.0.0.1", "-p", &public]).args(arguments))
    };
    assert_eq!(cli(&["PING"]), "PONG\n");
    assert_eq!(cli(&["SET", "key", "through the tunnel"]), "OK\n");
    assert_eq!(cli(&["GET", "key"]), "through the tunnel\n");
    let big = "x".repeat(100_000);
    assert_eq!(cli(&["SET", "big", &big]), "OK\n");
    assert_eq!(cli(&["STRLEN", "big"]), "100000\n");
    assert_eq!(cli(&["GET", "big"]).trim_end().len(), 100_000);
    let text = cli(&["EVAL", "for i=1,1000 do redis.call('RPUSH','list',i) end return redis.call('LLEN','list')", "0"]);
    assert_eq!(text, "1000\n");
}

/// A PostgreSQL server in a directory of its own.
struct Postgres {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Postgres {
    async fn start() -> Self {
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

#[tokio::test]
async fn postgresql_works_through_a_tunnel() {
    let postgres = Postgres::start().await;
    let server = Server::setup().tcp_ports().start().await;
    let agent = Publish::to(&server).tcp(SocketAddr::from(([127, 0, 0, 1], postgres.port)), 0).start().await;
    let public = agent.port().port().to_string();
    let sql = |text: &str| {
        let mut command = Command::new(program("psql"));
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &public,
            "-U",
            "app",
            "-d",
            "postgres",
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            text,
        ]);
        run(command.env("PGCONNECT_TIMEOUT", "10")).trim().to_owned()
    };
    assert_eq!(sql("select 40 + 2"), "42");
    sql("create table noise as select i, md5(i::text) as hash from generate_series(1, 50000) as i");
    assert_eq!(
        sql("select count(*), min(hash) = '00003e3b9e5336685200ae85d21b4f5e' is not null from noise"),
        "50000|t"
    );
    let rows = sql("select i, hash from noise order by i");
    assert_eq!(rows.lines().count(), 50_000);
    assert_eq!(rows.lines().next(), Some("1|c4ca4238a0b923820dcc509a6f75849b"));
    // What the database sees is the agent's connection.
    assert_eq!(sql("select host(inet_client_addr())"), "127.0.0.1");
}
