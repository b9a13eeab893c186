//! `adit doctor`: what would stop adit from working here, and what to do about it.
//!
//! [`facts`] asks the machine, [`judge`] decides what the answers mean.

mod facts;
mod judge;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Global, on_runtime};
use crate::report::{Failure, Output};
use crate::terminal;

/// Width of the columns of results and names.
const RESULT: usize = 5;
const NAME: usize = 11;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    /// As it should be.
    Ok,
    /// Something will not work, or not for everybody.
    Warn,
    /// What is configured cannot work.
    Fail,
}

impl Grade {
    const ALL: [Self; 3] = [Self::Ok, Self::Warn, Self::Fail];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was looked at, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    grade: Grade,
    message: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, grade: Grade::Ok, message: message.into(), fix: None }
    }

    fn warn(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, grade: Grade::Warn, message: message.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, grade: Grade::Fail, message: message.into(), fix: Some(fix.into()) }
    }

    /// A failure where it is in the way, a warning where it only may be.
    fn bad(fatal: bool, name: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        if fatal { Self::fail(name, message, fix) } else { Self::warn(name, message, fix) }
    }

    fn text(&self) -> String {
        let line = format!("{:RESULT$} {:NAME$} {}\n", self.grade.as_str(), self.name, self.message);
        match &self.fix {
            Some(fix) => format!("{line}{:RESULT$} {:NAME$} fix: {fix}\n", "", ""),
            None => line,
        }
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "result": self.grade.as_str(), "message": self.message, "fix": self.fix })
    }
}

pub(super) fn run(global: &Global) -> Result<ExitCode, Failure> {
    global.start_logs(Some("error"), false)?;
    let checks = judge::all(&on_runtime(Some(1), facts::gather(global))?);
    terminal::data(&match global.output {
        Output::Text => text(&checks),
        Output::Json => format!("{}\n", report(&checks)),
    });
    let failed = checks.iter().any(|check| check.grade == Grade::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn count(checks: &[Check], grade: Grade) -> usize {
    checks.iter().filter(|check| check.grade == grade).count()
}

fn text(checks: &[Check]) -> String {
    let lines: String = checks.iter().map(Check::text).collect();
    let [ok, warn, fail] = Grade::ALL.map(|grade| count(checks, grade));
    format!("{lines}\n{ok} ok, {warn} to look at, {fail} in the way\n")
}

fn report(checks: &[Check]) -> Value {
    let [ok, warn, fail] = Grade::ALL.map(|grade| count(checks, grade));
    json!({
        "ok": fail == 0,
        "version": env!("CARGO_PKG_VERSION"),
        "summary": { "ok": ok, "warn": warn, "fail": fail },
        "checks": checks.iter().map(Check::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_result_name_message_and_fix() {
        let checks = [Check::ok("clock", "fine"), Check::fail("ports", "5432 is taken", "use 5433")];
        let expected = "ok    clock       fine\nfail  ports       5432 is taken\n                  fix: use 5433\n\n1 ok, 0 to look at, 1 in the way\n";
        assert_eq!(text(&checks), expected);
        let report = report(&checks);
        assert_eq!((&report["ok"], &report["summary"]["fail"]), (&json!(false), &json!(1)));
        assert_eq!(report["checks"][0], json!({ "name": "clock", "result": "ok", "message": "fine", "fix": null }));
    }
}
