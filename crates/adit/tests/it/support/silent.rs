//! A resolver that never answers.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DEADLINE, pipe};

/// Names without a dot are looked up in a file that is a pipe, by whom it is told: a resolver that does not answer.
pub(crate) struct SilentNames(PathBuf);

impl SilentNames {
    pub(crate) fn new(home: &Path, command: &mut Command) -> Self {
        let path = home.join("names");
        pipe(&path);
        // See hostname(7).
        command.env("HOSTALIASES", &path);
        Self(path)
    }

    /// Waits until somebody looks a name up, who gets nothing as long as this is kept.
    pub(crate) async fn asked(&self) -> File {
        let (path, (tell, told)) = (self.0.clone(), tokio::sync::oneshot::channel());
        // It waits for a reader, in a thread that the test's end does not wait for.
        std::thread::spawn(move || tell.send(OpenOptions::new().write(true).open(path)));
        let asked = tokio::time::timeout(DEADLINE, told).await.expect("a name is looked up");
        asked.expect("the thread").expect("the pipe")
    }
}
