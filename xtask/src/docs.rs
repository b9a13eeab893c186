//! The generated reference pages: written by the binary itself, so that they cannot drift from it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// Pages of `docs/reference` that `adit reference NAME` prints.
const PAGES: [&str; 3] = ["metrics", "cli", "api"];

/// Writes every generated page.
pub(crate) fn write(root: &Path) -> Outcome {
    each(root, |path, page| match std::fs::write(path, page) {
        Ok(()) => Ok("written"),
        Err(error) => Err(error.to_string()),
    })
}

/// Compares every generated page with what is committed.
pub(crate) fn check(root: &Path) -> Outcome {
    each(root, |path, page| match std::fs::read_to_string(path) {
        Ok(committed) if committed == page => Ok("up to date"),
        Ok(_) => Err("not up to date: run ./dev docs and commit the result".to_owned()),
        Err(error) => Err(format!("{error}: run ./dev docs and commit the result")),
    })
}

fn each(root: &Path, act: impl Fn(&Path, &str) -> Result<&'static str, String>) -> Outcome {
    let mut outcome = Outcome { good: true, text: String::new() };
    for name in PAGES {
        let path = page_path(name);
        let result = generate(root, name).and_then(|page| act(&root.join(&path), &page));
        outcome.good &= result.is_ok();
        let word = result.map_or_else(|fault| fault, str::to_owned);
        let _ = writeln!(outcome.text, "{}: {word}", path.display());
    }
    outcome
}

fn page_path(name: &str) -> PathBuf {
    Path::new("docs/reference").join(format!("{name}.md"))
}

/// Runs the binary and takes its standard output as the page.
fn generate(root: &Path, name: &str) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "adit", "--"])
        .args(["reference", name])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo could not be run: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`adit reference {name}` failed: {}", told.trim()));
    }
    let page = String::from_utf8(output.stdout)
        .map_err(|_| format!("`adit reference {name}` printed something that is not UTF-8"))?;
    Ok(format!("{}\n", page.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_lives_under_the_reference_directory() {
        assert_eq!(page_path("cli"), Path::new("docs/reference/cli.md"));
    }
}
