//! `adit monitor` and `adit top`, as their users run them. Where programs in the kernel are not permitted both poll, and
//! all of this holds as well.

mod board;
mod ends;
mod events;
mod suspended;
mod unread;
mod without;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testkit::process::{self, Closed, Process, Signal};
use testkit::raw;
use testkit::terminal::Terminal;

use crate::cli::home;
use crate::support::{DEADLINE, adit, eventually, within};

/// A monitor that is ready, with its two addresses.
struct Monitor {
    process: Process,
    metrics: SocketAddr,
    health: SocketAddr,
}

impl Monitor {
    fn start(home: &Path, more: &[&str]) -> Self {
        Self::start_by(adit(home), more)
    }

    /// The same by a command that runs the program with these arguments.
    fn start_by(mut command: std::process::Command, more: &[&str]) -> Self {
        command.args(["monitor", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0", "--interval", "200ms"]);
        let process = Process::start(command.args(more)).expect("it starts");
        let address = |word: &str| {
            let line = process.wait_line(DEADLINE, |line| line.starts_with(word)).expect("it says where it is");
            let url = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
            url.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{line}"))
        };
        let (metrics, health) = (address("metrics"), address("health"));
        Self { process, metrics, health }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let address = if path == "/metrics" { self.metrics } else { self.health };
        let answer = raw::get(address, "localhost", path).await.expect("an answer");
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    /// Whether it has programs in the kernel.
    async fn sees_all(&self) -> bool {
        let health: Value = serde_json::from_str(&self.get("/health").await.1).expect("JSON");
        health["source"]["kind"] == "ebpf"
    }
}

/// A value of the metrics.
fn value(metrics: &str, series: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn the_probes_answer_as_those_of_the_tool_before() {
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    let ready = || async { Some(monitor.get("/readiness").await).filter(|(status, _)| *status == 200) };
    assert_eq!(eventually(DEADLINE, "ready", ready).await.1, "Ready");
    assert_eq!(monitor.get("/liveness").await, (200, "OK".into()));
    assert_eq!(monitor.get("/other").await.0, 404);
    let (status, paths) = monitor.get("/").await;
    assert!(status == 200 && paths.contains("/readiness"), "{paths}");
    let (status, health) = monitor.get("/health").await;
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!((status, &health["ready"], &health["alive"]), (200, &true.into(), &true.into()));
    assert!(health["timestamp"].as_u64().is_some_and(|at| at > 1_700_000_000), "{health}");
    assert!(health["source"]["parts"].as_array().is_some_and(|parts| !parts.is_empty()), "{health}");
    monitor.process.terminate().unwrap();
    assert!(monitor.process.wait(DEADLINE).expect("it ends").success());
    assert!(TcpListener::bind(monitor.metrics).is_ok(), "its ports are free");
}

#[tokio::test]
async fn a_monitor_that_cannot_look_any_more_is_neither_ready_nor_alive_until_it_is_told_to_end() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    if !monitor.sees_all().await {
        eprintln!("SKIPPED: nothing that can be taken away keeps a poll from looking");
        return;
    }
    let mut asking = raw::Client::connect(monitor.health).await.expect("a connection");
    assert_eq!(asking.get("localhost", "/liveness").await.expect("an answer").text(), "OK");
    let pid = Pid::from_raw(monitor.process.pid().cast_signed()).expect("a process");
    // A look needs a descriptor; the connection that is there already needs none.
    let none = Rlimit { current: Some(1), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(Some(pid), Resource::Nofile, none);
    let before = before.expect("the limit of a process of our own");
    within("not alive", async {
        while asking.get("localhost", "/liveness").await.expect("an answer").status == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    prlimit(Some(pid), Resource::Nofile, before).expect("as it was");
    assert_eq!(monitor.get("/liveness").await, (503, "Not alive".into()));
    assert_eq!(monitor.get("/readiness").await, (503, "Not ready".into()));
    let (status, health) = monitor.get("/health").await;
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!((status, &health["alive"], &health["ready"]), (503, &false.into(), &false.into()), "{health}");
    // Whatever of its work was the first to need a descriptor.
    assert!(health["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{health}");
    let (status, metrics) = monitor.get("/metrics").await;
    assert!(status == 200 && metrics.contains("adit_monitor_info"), "what was counted is told still: {metrics}");
    monitor.process.terminate().unwrap();
    assert_eq!(monitor.process.wait(DEADLINE).expect("it ends").code(), Some(1));
}

/// A monitor that a shell starts after it has limited its descriptors.
fn limited(home: &Path, limit: &str) -> Monitor {
    let own = adit(home);
    let mut command = std::process::Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(own.get_program()).env("HOME", home);
    Monitor::start_by(command, &[])
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_take_the_descriptors_that_a_look_needs() {
    const SILENT: usize = 400;
    let home = home();
    let monitor = limited(home.path(), "-Sn 256");
    let silent: Vec<_> = (0..SILENT).map(|_| TcpStream::connect(monitor.health).expect("a connection")).collect();
    let files = format!("/proc/{}/fd", monitor.process.pid());
    let taken = || async { Some(()).filter(|()| std::fs::read_dir(&files).expect("its files").count() > SILENT) };
    eventually(DEADLINE, "all of them are taken", taken).await;
    let looked = || async {
        let found = value(&monitor.metrics().await, "adit_monitor_entries{table=\"connections\"}");
        found.filter(|count| *count >= SILENT as u64)
    };
    eventually(DEADLINE, "a look at all of them", looked).await;
    assert_eq!(monitor.get("/liveness").await, (200, "OK".into()));
    drop(silent);
}

#[tokio::test]
async fn clients_that_say_nothing_leave_a_look_its_descriptors_where_there_are_few_for_good() {
    const SILENT: usize = 400;
    const CARRIED: usize = 16 * 1024;
    let home = home();
    let monitor = limited(home.path(), "-n 256");
    let come = |address| (0..SILENT).map(|_| TcpStream::connect(address).expect("a connection")).collect::<Vec<_>>();
    let silent = [come(monitor.health), come(monitor.metrics)];
    let limit = std::fs::read_to_string(format!("/proc/{}/limits", monitor.process.pid())).expect("its limits");
    assert!(limit.lines().any(|line| line.starts_with("Max open files") && line.contains(" 256 ")), "{limit}");
    // It looks on: what is carried from here is told by a look alone.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    // Whoever comes in the midst of a crowd that is on its way out may have to come again.
    let ask = async |address, path| {
        let answer = raw::get(address, "localhost", path).await.ok()?;
        Some((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    };
    let sent =
        || async { value(&ask(monitor.metrics, "/metrics").await?.1, "adit_tcp_bytes_total{direction=\"sent\"}") };
    for round in 1..=3 {
        let before = eventually(DEADLINE, "metrics", sent).await;
        client.write_all(&[b'x'; CARRIED]).unwrap();
        server.read_exact(&mut [0; CARRIED]).unwrap();
        let looked = || async { sent().await.filter(|sent| *sent >= before + CARRIED as u64) };
        eventually(DEADLINE, "a look", looked).await;
        let alive = eventually(DEADLINE, "health", || ask(monitor.health, "/liveness")).await;
        assert_eq!(alive, (200, "OK".into()), "{round}");
    }
    drop(silent);
}

#[tokio::test]
async fn connects_are_told_by_process_with_their_errors() {
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    if !monitor.sees_all().await {
        eprintln!("SKIPPED: failed connections are seen by programs in the kernel only");
        return;
    }
    let closed = Closed::take().unwrap();
    (0..7).for_each(|_| assert!(TcpStream::connect(closed.address).is_err()));
    let pid = std::process::id();
    let told = || async {
        let metrics = monitor.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with(&format!("tcp_connects_by_pid{{pid=\"{pid}\"")))?;
        let count: u64 = line.rsplit(' ').next()?.parse().ok()?;
        (count >= 7).then_some(metrics)
    };
    let metrics = eventually(DEADLINE, "the connects", told).await;
    let refused = value(&metrics, "adit_tcp_ends_total{end=\"failed\",error=\"ECONNREFUSED\"}");
    assert!(refused.is_some_and(|count| count >= 7), "{metrics}");
    assert!(metrics.contains("# TYPE tcp_connects_by_pid gauge"), "{metrics}");
    assert_eq!(value(&metrics, "adit_monitor_lost_total{what=\"event_no_room\"}"), Some(0));
    // A connection that is open has a place in the kernel's map.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let kept = || async {
        let kept = value(&monitor.metrics().await, "adit_monitor_entries{table=\"kernel\"}");
        kept.filter(|count| *count >= 2)
    };
    eventually(DEADLINE, "both its ends in the map", kept).await;
    drop(client);
}

/// Each field that was printed is in the reference, by its name.
fn is_described(what: &str, printed: &[&Value]) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/top.md");
    let page = std::fs::read_to_string(page).expect("the reference");
    let mut left: Vec<&Value> = printed.to_vec();
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    assert!(page.contains(&format!("`{name}`")), "{what}: {name} is not in docs/reference/top.md");
                    left.push(value);
                }
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
}

/// A line of each thread's status.
fn of_threads(pid: u32, key: &str) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a number")
    };
    statuses.map(value).collect()
}

#[tokio::test]
async fn s21_no_thread_of_the_monitor_keeps_more_rights_than_it_needs() {
    const PTRACE_READ_SEARCH_NICE: u64 = 1 << 19 | 1 << 2 | 1 << 23;
    const NICE_PERFMON_BPF: u64 = 1 << 23 | 1 << 38 | 1 << 39;
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    let ready = || async { Some(()).filter(|()| monitor.process.is_running()) };
    eventually(DEADLINE, "running", ready).await;
    let may_have = if monitor.sees_all().await { NICE_PERFMON_BPF } else { PTRACE_READ_SEARCH_NICE };
    let pid = monitor.process.pid();
    for key in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        let have = of_threads(pid, key);
        assert!(have.len() > 3 && have.iter().all(|one| one & !may_have == 0), "{key} {have:x?}");
    }
    assert!(of_threads(pid, "NoNewPrivs:").iter().all(|one| *one == 1));
    let health: Value = serde_json::from_str(&monitor.get("/health").await.1).expect("JSON");
    let told: Vec<&str> = health["rights"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(told.len(), of_threads(pid, "CapEff:")[0].count_ones() as usize, "{told:?}");
}

#[test]
fn s21_with_sudo_every_thread_of_top_goes_on_as_the_user_who_called_it_and_with_no_more_rights_than_it_needs() {
    const OF_PROGRAMS: u64 = 1 << 23 | 1 << 38 | 1 << 39;
    const OF_A_POLL: u64 = 1 << 19 | 1 << 2;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let home = home();
    let mut command = adit(home.path());
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534").args(["top", "-o", "json", "--interval", "200ms"]);
    let process = Process::start(&mut command).expect("it starts");
    let begun = process.wait_line(DEADLINE, |line| line.contains("\"started\"")).expect("it says how it sees");
    let may_have = if begun.contains("\"kind\":\"ebpf\"") { OF_PROGRAMS } else { OF_A_POLL };
    let nobody = [65_534; 4].map(|id: u32| id.to_string()).join("\t");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).expect("its threads").flatten();
    let statuses: Vec<String> =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).collect();
    assert!(statuses.len() > 1, "its own, and that of the agent");
    for status in &statuses {
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).expect("a line").trim();
        assert_eq!([line("Uid:"), line("Gid:"), line("Groups:")], [&*nobody, &*nobody, "65534"], "{status}");
        for key in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            let have = u64::from_str_radix(line(key), 16).expect("a number");
            assert_eq!(have & !may_have, 0, "{key} {status}");
        }
        assert_eq!(line("NoNewPrivs:"), "1");
    }
    process.terminate().unwrap();
    assert!(process.wait(DEADLINE).expect("it ends").success(), "{}", process.stderr());
    assert!(!process.stderr().contains("goes on as root"), "{}", process.stderr());
}

#[test]
fn s21_where_top_may_not_become_the_user_who_called_sudo_it_says_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let home = home();
    let own = adit(home.path());
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-setuid", "--inh-caps", "-setuid"]).arg(own.get_program());
    command.env("HOME", home.path());
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534").args(["top", "--once", "--interval", "100ms"]);
    let Ok((status, said)) = process::run(&mut command, b"", DEADLINE) else {
        eprintln!("SKIPPED: there is no setpriv here");
        return;
    };
    if said.stderr().contains("setpriv:") {
        eprintln!("SKIPPED: {}", said.stderr());
        return;
    }
    assert!(status.success() && said.stderr().contains("it goes on as root"), "{}", said.stderr());
}

#[test]
fn programs_that_are_refused_are_told_with_the_missing_rights_and_the_command_that_grants_them() {
    use std::os::unix::process::CommandExt as _;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody without rights");
        return;
    }
    let mut command = adit(Path::new("/"));
    command.args(["monitor", "--source", "ebpf", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"]);
    let Ok((status, said)) = process::run(command.uid(65_534).gid(65_534), b"", DEADLINE) else {
        eprintln!("SKIPPED: nobody may not run the program where it is");
        return;
    };
    let text = said.stderr();
    assert_eq!(status.code(), Some(5), "{text}");
    assert!(text.contains("CAP_BPF and CAP_PERFMON are missing"), "{text}");
    assert!(text.contains("sudo setcap cap_bpf,cap_perfmon+ep /"), "{text}");
}

/// The capabilities that the manifest of Kubernetes adds to none.
fn granted() -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitor/base/daemonset.yaml");
    let text = std::fs::read_to_string(manifest).expect("the manifest");
    let list = text.split_once("drop: [ALL], add: [").and_then(|(_, rest)| rest.split_once(']')).expect("a list").0;
    list.split(',').map(|one| one.trim().to_lowercase()).collect()
}

#[tokio::test]
async fn s21_the_rights_and_the_file_system_that_the_manifest_gives_are_enough_for_programs_in_the_kernel() {
    let home = home();
    if !rustix::process::geteuid().is_root() || !Monitor::start(home.path(), &[]).sees_all().await {
        eprintln!("SKIPPED: here no program may be loaded into the kernel");
        return;
    }
    let bounds = granted().iter().map(|one| format!(",+{one}")).collect::<String>();
    let read_only = "mount -o remount,bind,ro / && exec setpriv --no-new-privs --inh-caps=-all \"$0\" \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", read_only, &format!("--bounding-set=-all{bounds}")]);
    command.arg(adit(home.path()).get_program()).env("HOME", home.path());
    command.args(["monitor", "--source", "ebpf", "--metrics", "127.0.0.1:0", "--health", "127.0.0.1:0"]);
    let process = Process::start(&mut command).expect("there is a shell");
    let said = process.wait_line(DEADLINE, |line| line.starts_with("health") || line.contains("mount:"));
    let said = said.unwrap_or_else(|_| panic!("{}", process.output()));
    if said.contains("mount:") {
        eprintln!("SKIPPED: no file system that cannot be written to is to be had: {said}");
        return;
    }
    let health = said.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let address = health.parse().expect("an address");
    let ready = || async { raw::get(address, "localhost", "/readiness").await.ok().filter(|one| one.status == 200) };
    eventually(DEADLINE, "ready", ready).await;
    let told = raw::get(address, "localhost", "/health").await.expect("an answer");
    let told: Value = serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!((&told["source"]["kind"], &told["source"]["degraded"]), (&"ebpf".into(), &false.into()), "{told}");
    process.terminate().unwrap();
    assert!(process.wait(DEADLINE).expect("it ends").success());
}

#[test]
fn in_a_container_with_processes_of_its_own_it_is_said_what_that_hides() {
    let home = home();
    let program = adit(home.path()).get_program().to_owned();
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(program);
    command.args(["top", "--once", "-o", "json", "--interval", "100ms"]).env("HOME", home.path());
    let Ok((status, said)) = process::run(&mut command, b"", DEADLINE) else {
        eprintln!("SKIPPED: there is no unshare here");
        return;
    };
    if !status.success() {
        eprintln!("SKIPPED: no such namespace is to be had: {}", said.stderr());
        return;
    }
    assert!(said.stdout().contains("(hostPID)"), "{}", said.stdout());
}

#[tokio::test]
async fn twenty_scrapers_at_once_all_get_the_whole_text() {
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    let address = monitor.metrics;
    let scrapers: Vec<_> = (0..20)
        .map(|_| {
            std::thread::spawn(move || {
                (0..20).all(|_| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
                    let mut text = String::new();
                    stream.read_to_string(&mut text).unwrap();
                    text.starts_with("HTTP/1.1 200 ") && text.contains("\nadit_monitor_folded_total ")
                })
            })
        })
        .collect();
    assert!(scrapers.into_iter().all(|scraper| scraper.join().unwrap()));
}

#[test]
fn a_port_that_is_taken_is_explained() {
    let home = home();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let mut command = adit(home.path());
    command.args(["monitor", "--metrics", "127.0.0.1:0", "--health", &taken]);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("it ends");
    let text = said.stderr();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("--health: port") && text.contains("give another one with --health"), "{text}");
    assert!(text.contains(&format!("{}", std::process::id())), "who has it: {text}");
}

#[tokio::test]
async fn addresses_of_others_may_be_asked_for_and_then_others_may_read() {
    let home = home();
    let mut command = adit(home.path());
    command.args(["monitor", "--metrics", "0.0.0.0:0", "--health", "127.0.0.1:0"]);
    let process = Process::start(&mut command).expect("it starts");
    let line = process.wait_line(DEADLINE, |line| line.starts_with("metrics")).expect("it says where it is");
    let port: u16 = line.trim_end_matches("/metrics").rsplit(':').next().unwrap().parse().unwrap();
    let answer = raw::get(SocketAddr::from(([127, 0, 0, 1], port)), "node-7", "/metrics").await.expect("an answer");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_process_is_shown_once_as_a_table_and_as_json() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (served, _) = listener.accept().unwrap();
    let top = |arguments: &[&str]| {
        let mut command = adit(home.path());
        let (status, said) = process::run(command.arg("top").args(arguments), b"", DEADLINE).expect("it ends");
        assert!(status.success(), "{}", said.stderr());
        said.stdout()
    };
    let table = top(&["--once", "--by", "connection", "--interval", "200ms", "--filter", &address.to_string()]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[1..].iter().all(|line| line.trim_start().starts_with(&std::process::id().to_string())), "{table}");
    let json = top(&["--once", "-o", "json", "--interval", "200ms"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    is_described("a table", &[&json]);
    let ours = |list: &str, key: &str, value: Value| {
        json[list].as_array().is_some_and(|list| list.iter().any(|one| one[key] == value))
    };
    assert!(ours("processes", "pid", std::process::id().into()), "{json}");
    assert!(ours("connections", "remote", address.to_string().into()), "{json}");
    assert!(ours("remotes", "port", address.port().into()), "{json}");
    // In the order that is asked for, as the table is, and chosen by what is told alone.
    let list = |arguments: &[&str]| -> Vec<Value> {
        let all = ["--once", "-o", "json", "--interval", "200ms", "--by", "connection", "--sort", "pid"];
        let json: Value = serde_json::from_str(&top(&[&all[..], arguments].concat())).expect("JSON");
        json["connections"].as_array().expect("a list").clone()
    };
    let pids: Vec<u64> = list(&[]).iter().map(|one| one["pid"].as_u64().unwrap_or_default()).collect();
    assert!(pids.len() >= 2 && pids.is_sorted_by(|a, b| a >= b), "{pids:?}");
    let first = list(&["--lines", "1"]);
    assert!(first.len() == 1 && first[0]["pid"].as_u64() >= Some(pids[0].min(std::process::id().into())), "{first:?}");
    assert_eq!(list(&["--filter", "seen_late"]), [] as [Value; 0], "the name of a field");
    drop((client, served));
}

#[tokio::test]
async fn events_are_lines_of_json_as_they_happen() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = adit(home.path());
    command.args(["top", "-o", "json", "--interval", "200ms", "--filter", &address.to_string()]);
    let process = Process::start(&mut command).expect("it starts");
    process.wait_line(DEADLINE, |line| line.contains("\"started\"")).expect("it says how it sees");
    let client = TcpStream::connect(address).unwrap();
    let (served, _) = listener.accept().unwrap();
    let step = |name: &str| {
        let name = format!("\"event\":\"{name}\"");
        let fits = |line: &str| line.contains(&name) && line.contains("\"outgoing\"");
        serde_json::from_str::<Value>(&process.wait_line(DEADLINE, fits).expect("an event")).expect("JSON")
    };
    let established = step("established");
    assert_eq!(established["remote"], address.to_string());
    assert!(established["duration_us"].is_null(), "it lives: {established}");
    drop((client, served));
    let ended = step("ended");
    assert!(established["id"].is_string() && ended["id"] == established["id"], "{established}\n{ended}");
    if ended["end"] != "unseen" {
        assert!(ended["duration_us"].as_u64().is_some_and(|lived| lived > 0), "{ended}");
        assert!(ended["time"].as_f64() >= established["time"].as_f64(), "{established}\n{ended}");
    }
    is_described("an event", &[&established, &ended]);
    process.terminate().unwrap();
    assert!(process.wait(DEADLINE).expect("it ends").success());
}

#[tokio::test]
async fn the_live_view_shows_this_process_takes_keys_and_leaves_the_terminal_as_it_was() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    let terminal = Terminal::open(120, 30).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let mut command = adit(home.path());
    // Others have connections, too, and there are 30 lines.
    command.args(["top", "--interval", "200ms", "--filter", &std::process::id().to_string()]);
    let mut program = terminal.control(&[], &command).expect("it runs");
    let pid = format!(" {} ", std::process::id());
    let shows = |what: &str| {
        let what = what.to_owned();
        let terminal = &terminal;
        async move {
            let look = || async { Some(()).filter(|()| terminal.screen().text().contains(&what)) };
            let seen = tokio::time::timeout(DEADLINE, eventually(DEADLINE * 2, "the screen", look)).await;
            seen.unwrap_or_else(|_| panic!("{what} is not on the screen:\n{}", terminal.screen().text()));
        }
    };
    shows("COMMAND").await;
    shows(pid.trim_end()).await;
    terminal.type_text("2").unwrap();
    shows("LOCAL").await;
    terminal.type_text("/no such thing\r").unwrap();
    shows("nothing fits the filter").await;
    terminal.type_text("q").unwrap();
    let program = std::sync::Mutex::new(&mut program);
    let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
    assert!(eventually(DEADLINE, "its end", end).await.success());
    let screen = terminal.screen();
    assert!(!screen.cursor_hidden && !screen.alternate && !screen.keeps_lines, "{}", screen.text());
    assert_eq!((screen.broken, screen.unknown.len()), (0, 0), "{:?}", screen.unknown);
    assert_eq!(terminal.modes().expect("its modes"), before);
    drop((client, served));
}

#[tokio::test]
async fn a_pause_holds_in_other_views_and_a_stop_signal_gives_the_terminal_back() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).unwrap();
    let (served, _) = listener.accept().unwrap();
    let terminal = Terminal::open(100, 24).expect("a terminal");
    let before = terminal.modes().expect("its modes");
    let mut command = adit(home.path());
    command.args(["top", "--interval", "100ms", "--by", "connection", "--filter", &address.to_string()]);
    let mut program = terminal.run(&mut command).expect("it runs");
    let terminal = &terminal;
    let shows = |what: String| async move {
        let look = || async { Some(()).filter(|()| terminal.screen().text().contains(&what)) };
        let seen = tokio::time::timeout(DEADLINE, eventually(DEADLINE * 2, "the screen", look)).await;
        seen.unwrap_or_else(|_| panic!("{what} is not on the screen:\n{}", terminal.screen().text()));
    };
    shows(format!("{}  in", client.local_addr().unwrap())).await;
    terminal.type_text("p").unwrap();
    shows("PAUSED".into()).await;
    drop((client, served));
    // Remotes, then connections again, in another order: what has ended meanwhile is still there.
    terminal.type_text("3").unwrap();
    shows("remotes by".into()).await;
    terminal.type_text("2>\x1b[C").unwrap();
    shows("connections by".into()).await;
    shows(format!("{address}  out")).await;
    assert!(terminal.screen().text().contains("PAUSED"), "{}", terminal.screen().text());
    terminal.type_text("p").unwrap();
    shows("nothing fits the filter".into()).await;
    program.signal(Signal::TERM).expect("it is told");
    let program = std::sync::Mutex::new(&mut program);
    let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
    assert!(eventually(DEADLINE, "its end", end).await.success());
    let screen = terminal.screen();
    assert!(!screen.cursor_hidden && !screen.alternate && !screen.keeps_lines, "{}", screen.text());
    assert_eq!((screen.broken, screen.unknown.len()), (0, 0), "{:?}", screen.unknown);
    assert_eq!(terminal.modes().expect("its modes"), before);
}

/// Its keys are not read either, as it stands in a write: `q` leaves it where it is.
#[tokio::test]
async fn a_live_view_whose_terminal_nobody_reads_ends_by_a_signal_also_after_q_and_gives_it_back() {
    for (signal, typed) in [(Signal::TERM, ""), (Signal::TERM, "q"), (Signal::HUP, "q")] {
        let home = home();
        let terminal = Terminal::open(200, 60).expect("a terminal");
        let before = terminal.modes().expect("its modes");
        let mut command = adit(home.path());
        command.args(["top", "--interval", "100ms"]);
        let mut program = terminal.run(&mut command).expect("it runs");
        let begun = || async { Some(()).filter(|()| terminal.screen().text().contains("COMMAND")) };
        eventually(DEADLINE, "the screen", begun).await;
        terminal.freeze(true);
        let full = || async { Some(()).filter(|()| terminal.is_full(Duration::from_millis(500)).expect("it is open")) };
        eventually(DEADLINE, "a full terminal", full).await;
        terminal.type_text(typed).expect("it takes keys");
        program.signal(signal).expect("it is told");
        let program = std::sync::Mutex::new(&mut program);
        let end = || async { program.lock().expect("no panic").ended().expect("the system says") };
        let ended = eventually(DEADLINE, "its end", end).await;
        assert!(ended.success(), "{signal:?} {typed:?}: {ended}");
        assert_eq!(terminal.modes().expect("its modes"), before, "{signal:?} {typed:?}");
        // Whether the page of the shell is there as well depends on how much room the terminal had.
        terminal.freeze(false);
    }
}

#[test]
fn what_would_be_ignored_is_refused_with_what_to_do_instead() {
    let home = home();
    for (arguments, words) in [
        (
            &["top", "--once", "--sort", "colour"][..],
            ["--sort colour: no such column", "processes have pid, command, open"],
        ),
        (&["top", "-o", "json", "--sort", "rate"], ["--sort has no meaning for steps", "add --once"]),
        (&["top", "-o", "json", "--by", "remote"], ["--by has no meaning for steps", "add --once"]),
        (&["top", "-o", "json", "--lines", "3"], ["--lines has no meaning without --once", "add --once"]),
        (&["top", "--events", "--by", "remote"], ["--by has no meaning for events", "--filter"]),
        (&["top", "--events", "--lines", "3"], ["--lines has no meaning without --once", "add --once"]),
        (&["top", "--once", "--events"], ["--events has no meaning with --once", "leave one of them out"]),
        (&["-f", "x.yaml", "top"], ["--config x.yaml has no meaning for adit top", "leave it out"]),
        (&["-f", "x.yaml", "monitor"], ["--config x.yaml has no meaning for adit monitor", "leave it out"]),
        (&["top", "--lines", "3"], ["--lines has no meaning without --once", "add --once"]),
        (
            &["top", "--once", "--source", "sock-diag", "--attach", "kprobe"],
            ["--attach is for programs in the kernel", "leave it out"],
        ),
        (
            &["top", "--events", "failed", "--source", "sock-diag"],
            ["--events failed would never tell anything", "not seen by polling"],
        ),
        (
            &["monitor", "--source", "sock-diag", "--accept", "close"],
            ["--accept is for programs in the kernel", "leave it out"],
        ),
        (
            &["monitor", "--metrics", "8080"],
            ["--metrics 127.0.0.1:8080 and --health 127.0.0.1:8080 are the same port", "--health 8081"],
        ),
        (&["top", "--once", "--interval", "2"], ["--interval 2: it has no unit", "--interval 2s"]),
        (&["monitor", "--metrics", "node7"], ["`node7` is not an address to listen on", "127.0.0.1:9090"]),
    ] {
        let mut command = adit(home.path());
        let (status, said) = process::run(command.args(arguments), b"", DEADLINE).expect("it ends");
        assert_eq!(status.code(), Some(2), "{arguments:?}: {}", said.stderr());
        let text = said.stderr().replace("\n", " ");
        assert!(words.iter().all(|word| text.contains(word)), "{arguments:?}: {text}");
    }
}

#[test]
fn the_columns_that_can_be_sorted_by_are_in_the_help() {
    let home = home();
    let (_, said) = process::run(adit(home.path()).args(["top", "--help"]), b"", DEADLINE).expect("it ends");
    let text = said.stdout().split_whitespace().collect::<Vec<_>>().join(" ");
    for columns in ["pid, command, open, opened", "local, remote, way, state, age", "remote, port, way, open"] {
        assert!(text.contains(columns), "{text}");
    }
}

#[tokio::test]
async fn where_it_polls_unknown_is_no_zero_and_connections_of_nobody_known_are_told() {
    use std::os::unix::process::CommandExt as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (served, _) = listener.accept().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let top = |arguments: &[&str]| {
        let mut command = adit(Path::new("/"));
        command.args(["top", "--once", "--source", "sock-diag", "--interval", "100ms"]).args(arguments);
        if is_root {
            // Somebody who may not see whose the sockets here are.
            command.uid(65_534).gid(65_534);
        }
        process::run(&mut command, b"", DEADLINE).ok().filter(|(status, _)| status.success()).map(|(_, said)| said)
    };
    let Some(said) = top(&["-o", "json"]) else {
        eprintln!("SKIPPED: nobody may not run the program where it is");
        return;
    };
    let json: Value = serde_json::from_str(&said.stdout()).expect("JSON");
    let processes = json["processes"].as_array().expect("a list");
    assert!(processes.iter().all(|one| one["failed"].is_null()), "a poll sees no failures: {json}");
    assert!(json["connections"].as_array().is_some_and(|all| all.iter().all(|one| one["netns"].is_null())), "{json}");
    is_described("a table", &[&json]);
    if is_root {
        let nobodys = processes.iter().find(|one| one["pid"].is_null()).expect("those of others");
        assert!(nobodys["open"].as_u64() >= Some(2), "{nobodys}");
        let said = top(&[]).expect("as before");
        assert!(said.stdout().contains("–  (not known)"), "{}", said.stdout());
        assert!(said.stderr().contains("not seen: ") && said.stderr().contains("processes of other users"));
    }
    drop((client, served));
}

#[tokio::test]
async fn with_json_the_monitor_says_where_it_is_in_a_line_for_programs_and_logs_in_json() {
    let home = home();
    let mut command = adit(home.path());
    command.args(["-o", "json", "monitor", "--metrics", "0", "--health", ":0"]);
    let process = Process::start(&mut command).expect("it starts");
    let line = process.wait_line(DEADLINE, |line| line.contains("\"started\"")).expect("it says where it is");
    let begun: Value = serde_json::from_str(&line).expect("JSON");
    let metrics = begun["metrics"].as_str().expect("an address");
    assert!(metrics.starts_with("http://127.0.0.1:") && metrics.ends_with("/metrics"), "{begun}");
    is_described("the monitor's line", &[&begun]);
    process.terminate().unwrap();
    assert!(process.wait(DEADLINE).expect("it ends").success());
    for line in process.stderr().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn a_daemon_that_hangs_holds_up_no_table_and_no_signal() {
    use std::os::unix::fs::DirBuilderExt as _;
    let home = home();
    let runtime = tempfile::tempdir().unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(runtime.path().join("adit")).unwrap();
    // It takes connections, and answers none of them.
    let daemon = std::os::unix::net::UnixListener::bind(runtime.path().join("adit/control.sock")).unwrap();
    let top = |interval: &str| {
        let mut command = adit(home.path());
        command.env("XDG_RUNTIME_DIR", runtime.path()).env_remove("RUNTIME_DIRECTORY").env_remove("SUDO_UID");
        command.args(["top", "--once", "--interval", interval]);
        command
    };
    let (status, said) = process::run(&mut top("100ms"), b"", DEADLINE).expect("it does not wait for it");
    assert!(status.success() && said.stdout().contains("COMMAND"), "{}", said.stderr());
    // Those of the first one are taken here as well, so that this is the second one's.
    daemon.set_nonblocking(true).unwrap();
    while daemon.accept().is_ok() {}
    daemon.set_nonblocking(false).unwrap();
    let process = Process::start(&mut top("60s")).expect("it starts");
    let asked = daemon.accept().expect("it asks, so its signals are taken");
    process.signal(Signal::INT).unwrap();
    assert_eq!(process.wait(DEADLINE).expect("it ends").code(), Some(130), "there was no table");
    drop(asked);
}
