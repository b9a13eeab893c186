//! The Grafana board and the alert rules, with a real Prometheus that reads a real monitor under load.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use testkit::process::{Closed, Process, free_port};
use testkit::raw;

use super::Monitor;
use crate::cli::home;
use crate::support::{DEADLINE, eventually};

/// Two looks of Prometheus at least are within this, so that there are rates.
const RATE_INTERVAL: &str = "10s";

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/monitor").join(name)
}

fn board() -> Value {
    let text = std::fs::read_to_string(deployed("grafana/adit-monitor.json")).expect("the board");
    serde_json::from_str(&text).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the board asks, with its variables as Grafana would fill them in. What it shows only when it is more than nothing
/// is asked for without that.
fn questions(board: &Value) -> Vec<String> {
    let targets = list(&board["panels"]).iter().flat_map(|panel| list(&panel["targets"]));
    let filled = |target: &Value| {
        let question = text(&target["expr"]).replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL);
        question.strip_suffix(" > 0").map(str::to_owned).unwrap_or(question)
    };
    targets.map(filled).collect()
}

#[test]
fn the_board_is_as_grafana_reads_one() {
    let board = board();
    let variables: Vec<&str> = list(&board["templating"]["list"]).iter().map(|one| text(&one["name"])).collect();
    assert_eq!(variables, ["source", "instance"]);
    assert!(board["schemaVersion"].as_u64() >= Some(36) && text(&board["uid"]).len() < 40, "{board}");
    let mut taken = Vec::new();
    let mut ids = Vec::new();
    for panel in list(&board["panels"]) {
        let (title, place) = (text(&panel["title"]), &panel["gridPos"]);
        assert!(!title.is_empty() && text(&panel["datasource"]["uid"]) == "${source}", "{panel}");
        ids.push(panel["id"].as_u64().expect("a number"));
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| place[key].as_u64().expect("a number"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{title} is beside the grid");
        let covers = |other: &[u64; 4]| {
            x < other[0] + other[2] && other[0] < x + w && y < other[1] + other[3] && other[1] < y + h
        };
        assert!(!taken.iter().any(covers), "{title} is upon another one");
        taken.push([x, y, w, h]);
        let mut names: Vec<&str> = list(&panel["targets"]).iter().map(|target| text(&target["refId"])).collect();
        let all = names.len();
        names.dedup();
        assert!(all > 0 && names.len() == all, "{title}: {names:?}");
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert!(all > 5 && ids.len() == all, "{ids:?}");
    for question in questions(&board) {
        assert!(!question.contains('$'), "a variable that is not known: {question}");
        assert!(question.contains("{instance=~\".*\""), "it is not of the machine that was chosen: {question}");
    }
}

/// A Prometheus that reads the monitor twice a second.
struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// None where it is not installed.
    fn start(home: &Path, monitor: SocketAddr) -> Option<Self> {
        let (config, port) = (home.join("prometheus.yml"), free_port().expect("a port"));
        let rules = deployed("alerts.yaml").canonicalize().expect("the rules");
        let text = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: [{}]\n\
             scrape_configs: [{{job_name: adit-monitor, static_configs: [{{targets: [\"{monitor}\"]}}]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text).expect("the file system works");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address={address}"));
        command.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        let process = Process::start(&mut command).ok()?;
        Some(Self { _process: process, address })
    }

    /// What it answers, once it does.
    async fn get(&self, path: &str) -> Option<Value> {
        let answer = raw::get(self.address, "localhost", path).await.ok()?;
        let value: Value = serde_json::from_slice(&answer.body).ok()?;
        let is_well = value["status"] == "success" || value["status"].is_null();
        assert!(is_well, "{path}: {value}");
        Some(value["data"].clone())
    }

    /// The numbers that a question has for an answer.
    async fn ask(&self, question: &str) -> Vec<f64> {
        let Some(data) = self.get(&format!("/api/v1/query?query={}", escaped(question))).await else {
            return Vec::new();
        };
        let number = |one: &Value| text(&one["value"][1]).parse::<f64>().ok().filter(|number| !number.is_nan());
        list(&data["result"]).iter().filter_map(number).collect()
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Connections that carry something, one that is refused for three that are not, and some that are cut off.
fn load(listener: &TcpListener, closed: SocketAddr) {
    carry(listener).expect("connections to itself");
    for _ in 0..2 {
        assert!(TcpStream::connect(closed).is_err());
    }
}

fn carry(listener: &TcpListener) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    for number in 0..6 {
        let mut client = TcpStream::connect(address)?;
        let (mut served, _) = listener.accept()?;
        client.write_all(&[1; 5_000])?;
        served.read_exact(&mut [0; 5_000])?;
        served.write_all(&[2; 50])?;
        // The first is read to its end; of the second one the answer is left unread, which is a reset.
        if number % 2 == 0 {
            client.read_exact(&mut [0; 50])?;
        } else {
            client.peek(&mut [0])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_question_of_the_board_has_an_answer_and_every_alert_is_understood() {
    let home = home();
    let monitor = Monitor::start(home.path(), &[]);
    let Some(prometheus) = Prometheus::start(home.path(), monitor.metrics) else {
        eprintln!("SKIPPED: there is no prometheus here (./dev setup installs it)");
        return;
    };
    if !monitor.sees_all().await {
        eprintln!("SKIPPED: a poll sees no failures and no handshakes");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = Closed::take().unwrap();
    for question in questions(&board()) {
        let asked = || async {
            load(&listener, closed.address);
            Some(prometheus.ask(&question).await).filter(|answer| !answer.is_empty())
        };
        let limit = DEADLINE + Duration::from_secs(20);
        eventually(limit, &question, asked).await;
    }
    // The variable of the board is filled from this.
    assert_eq!(prometheus.ask("count by (instance) (adit_monitor_info)").await, [1.0]);
    let pending = || async {
        load(&listener, closed.address);
        let data = prometheus.get("/api/v1/rules").await?;
        let rules: Vec<Value> = list(&data["groups"]).iter().flat_map(|group| list(&group["rules"]).to_vec()).collect();
        let is_well = rules.iter().all(|rule| rule["health"] == "ok" && text(&rule["lastError"]).is_empty());
        let fails = rules.iter().any(|rule| rule["name"] == "AditTcpConnectsFail" && rule["state"] == "pending");
        (is_well && fails && rules.len() >= 5).then_some(())
    };
    eventually(DEADLINE, "all alerts are computed, and one of them waits for its time", pending).await;
}
