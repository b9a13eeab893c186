//! The file that is found from here, where it is not the daemon's.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::Client;
use crate::command::Global;
use crate::command::up::path;
use crate::report::Failure;

/// How the daemon is made to take the file that is found.
const TAKES: &str = "`adit daemon stop && adit daemon start` takes this one";

/// That the daemon runs another file than the one that is found from here, and how to change that.
pub(in crate::command) fn told(global: &Global, status: &Value) -> Option<String> {
    let own = PathBuf::from(status["daemon"]["config"].as_str()?);
    in_words(&own, &path(global)?)
}

/// The same for a failure that may come of it.
pub(super) async fn explained(global: &Global, client: &Client, failure: Failure) -> Failure {
    let status = client.get("/v1/status").await.unwrap_or_default();
    match told(global, &status) {
        Some(text) => failure.and(&text),
        None => failure,
    }
}

fn in_words(own: &Path, found: &Path) -> Option<String> {
    let is_other = super::whole(own) != super::whole(found);
    let found = if found.is_relative() { Path::new(".").join(found) } else { found.to_owned() };
    is_other.then(|| format!("the daemon runs {}, not {}; {TAKES}", own.display(), found.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_than_the_daemons_is_told_and_the_same_by_another_path_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("one.yaml"), "").unwrap();
        std::fs::write(at("two.yaml"), "").unwrap();
        std::os::unix::fs::symlink(at("one.yaml"), at("link.yaml")).unwrap();
        assert_eq!(in_words(&at("one.yaml"), &at("link.yaml")), None);
        let text = in_words(&at("one.yaml"), &at("two.yaml")).unwrap();
        let told = format!("the daemon runs {}, not {}; ", at("one.yaml").display(), at("two.yaml").display());
        assert!(text.starts_with(&told) && text.ends_with(TAKES), "{text}");
        let here = in_words(&at("one.yaml"), Path::new("adit.yaml")).unwrap();
        assert!(here.contains(", not ./adit.yaml; "), "{here}");
    }
}
