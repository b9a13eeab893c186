//! Chores of the repository that need more than a line of shell: `cargo xtask tidy`, `cargo xtask docs`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod docs;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  tidy            checks what no lint can: sizes, names, borders between crates, stale paths
  docs            writes the generated pages of docs/reference
  docs --check    fails when a generated page is not up to date
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => finish(&tidy::run(&root())),
        ["docs"] => finish(&docs::write(&root())),
        ["docs", "--check"] => finish(&docs::check(&root())),
        _ => {
            say(&mut std::io::stderr(), USAGE);
            ExitCode::from(2)
        }
    }
}

/// What a chore has to say: lines for the reader, and whether it went well.
struct Outcome {
    good: bool,
    text: String,
}

fn finish(outcome: &Outcome) -> ExitCode {
    if outcome.good {
        say(&mut std::io::stdout(), &outcome.text);
        ExitCode::SUCCESS
    } else {
        say(&mut std::io::stderr(), &outcome.text);
        ExitCode::FAILURE
    }
}

/// Writes and forgets: a closed pipe is no reason for a second failure.
fn say(to: &mut dyn std::io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

/// The repository's root, which is the parent of this crate's directory.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
