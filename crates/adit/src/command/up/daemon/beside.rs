//! `adit up` beside a daemon that runs the very same file.

use std::path::Path;
use std::time::Duration;

use super::client::Client;
use super::place::Place;
use crate::report::Failure;

/// Nobody waits longer for a daemon to say what it runs.
const ASK: Duration = Duration::from_secs(2);

/// Why it does not start. When the daemon of this very file has the port, another port is no way out.
pub(in crate::command::up) async fn explained(failure: Failure, file: &Path) -> Failure {
    if !failure.message().contains("(pid ") {
        return failure;
    }
    let Ok(place) = Place::find() else { return failure };
    let client = Client::new(&place);
    let Ok(Ok(status)) = tokio::time::timeout(ASK, client.get("/v1/status")).await else { return failure };
    let daemon = &status["daemon"];
    let (Some(pid), Some(config)) = (daemon["pid"].as_u64(), daemon["config"].as_str()) else { return failure };
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let same = whole(Path::new(config)).is_some_and(|config| Some(config) == whole(file));
    let holds = |end: char| failure.message().contains(&format!("(pid {pid}{end}"));
    if !same || !(holds(')') || holds(',')) {
        return failure;
    }
    Failure::new(
        failure.kind(),
        format!("{}, the daemon, which runs this very file", failure.message()),
        "`adit status` shows what it does; `adit daemon stop` ends it, then `adit up` again",
    )
}
