//! curl, as the visitor everybody has.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testkit::process;

/// No transfer of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What curl did.
pub(crate) struct Curl {
    /// The status of the final answer; 0 when there was none.
    pub(crate) status: u16,
    /// The HTTP version of the answer: `1.1` or `2`.
    pub(crate) version: String,
    /// curl's exit code.
    pub(crate) exit: i32,
    /// The heads of all answers.
    pub(crate) heads: String,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Curl {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What curl prints on standard output with these arguments, among them what becomes of its answers.
pub(crate) async fn curl_said(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--ipv4", "--max-time", "50", "--output", "/dev/null"]).args(arguments);
    let process = process::Process::start(&mut command).expect("curl starts; ./dev setup installs it");
    process.exited(PATIENCE).await.unwrap_or_else(|error| panic!("curl {arguments:?}: {error}"));
    process.stdout().trim_end().to_owned()
}

/// Runs curl with these arguments; names under localhost are this machine.
pub(crate) async fn curl(arguments: &[&str]) -> Curl {
    let dir = tempfile::tempdir().expect("a directory for curl");
    let (heads, body) = (dir.path().join("heads"), dir.path().join("body"));
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--ipv4",
        "--max-time",
        "50",
        "--write-out",
        "%{http_code} %{http_version}\n",
    ]);
    command.arg("--dump-header").arg(&heads).arg("--output").arg(&body).args(arguments);
    let process = process::Process::start(&mut command).expect("curl starts; ./dev setup installs it");
    let status = process.exited(PATIENCE).await.unwrap_or_else(|error| panic!("curl {arguments:?}: {error}"));
    let stdout = process.stdout();
    let mut words = stdout.split_whitespace();
    Curl {
        status: words.next().and_then(|word| word.parse().ok()).unwrap_or_default(),
        version: words.next().unwrap_or_default().to_owned(),
        exit: status.code().unwrap_or(-1),
        heads: read(&heads, |bytes| String::from_utf8_lossy(&bytes).into_owned()),
        body: read(&body, |bytes| bytes),
    }
}

fn read<T: Default>(path: &Path, make: impl FnOnce(Vec<u8>) -> T) -> T {
    std::fs::read(path).map(make).unwrap_or_default()
}
