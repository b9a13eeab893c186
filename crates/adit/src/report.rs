//! One place where failures become text, JSON and an exit code.

use std::process::ExitCode;

use adit_core::config::{Problem, Problems};
pub(crate) use adit_core::diagnose::chain;
use adit_core::diagnose::{Diagnose, Fault, exit_code};
use serde_json::json;

use crate::terminal;

/// What is said of several problems together.
const PROBLEMS: &str = "the configuration has problems";

/// How a failure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    #[value(alias = "yaml")]
    Text,
    /// For programs.
    Json,
}

/// A failure on its way to the user.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    fault: Fault,
    message: String,
    hint: Option<String>,
    problems: Option<Problems>,
    /// What failed by it.
    within: Option<String>,
    /// A port that could be had in the place of one that is taken.
    free_port: Option<u16>,
    /// What does no harm, and is said after it.
    notes: Box<[String]>,
}

impl Failure {
    /// A failure that has no error type of its own.
    pub(crate) fn new(fault: Fault, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        let hint = (!hint.is_empty()).then_some(hint);
        Self {
            fault,
            message: message.into(),
            hint,
            problems: None,
            within: None,
            free_port: None,
            notes: Box::default(),
        }
    }

    /// Whose fault it is, in one word.
    pub(crate) fn fault(&self) -> &'static str {
        self.fault.as_str()
    }

    /// The same, for tables by fault.
    pub(crate) const fn kind(&self) -> Fault {
        self.fault
    }

    /// A failure that another process of ours has written as JSON.
    pub(crate) fn from_json(text: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let error = value.get("error")?;
        let fault = Fault::ALL.into_iter().find(|fault| error["fault"] == fault.as_str())?;
        let hint = error["hint"].as_str().unwrap_or_default();
        let problems = error["problems"].as_array().into_iter().flatten().map(problem).collect::<Vec<_>>();
        let problems = (!problems.is_empty()).then_some(Problems(problems));
        let message = error["message"].as_str()?;
        let within = message.strip_suffix(PROBLEMS).and_then(|before| before.strip_suffix(": ")).map(str::to_owned);
        Some(Self { problems, within, ..Self::new(fault, message, hint) })
    }

    /// The same, with what failed by it.
    pub(crate) fn within(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self.within = Some(what.to_owned());
        self
    }

    /// The same, with a port that could be had in the place of one that is taken.
    pub(crate) const fn with_free_port(mut self, port: Option<u16>) -> Self {
        self.free_port = port;
        self
    }

    /// A port that could be had in the place of one that is taken.
    pub(crate) const fn free_port(&self) -> Option<u16> {
        self.free_port
    }

    /// The same, with what does no harm yet.
    pub(crate) fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// The same, with something more to know.
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.hint = Some(self.hint.map_or_else(|| more.to_owned(), |hint| format!("{hint}; {more}")));
        self
    }

    /// What went wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether it is worth saying anything.
    pub(crate) fn exit(&self) -> ExitCode {
        ExitCode::from(exit_code(self.fault))
    }

    /// Says it on standard error.
    pub(crate) fn print(&self, output: Output) {
        match output {
            Output::Text => terminal::say(self.text().trim_end_matches('\n')),
            Output::Json => terminal::say(&self.json().to_string()),
        }
        self.notes.iter().for_each(|note| terminal::say(&format!("note: {note}")));
    }

    pub(crate) fn text(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        if let Some(problems) = &self.problems {
            let count = problems.len();
            let noun = if count == 1 { "problem" } else { "problems" };
            let within = self.within.as_ref().map(|what| format!("{what}: ")).unwrap_or_default();
            let problems = problems.to_string();
            return format!("{}\nerror: {within}{count} {noun} in the configuration\n{hint}", problems.trim_end());
        }
        format!("error: {}\n{hint}", self.message)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let problems = self.problems.as_ref().map(|problems| {
            problems
                .iter()
                .map(|p| {
                    json!({
                        "file": p.file, "line": p.line, "column": p.column,
                        "key": p.key, "message": p.message, "hint": p.hint,
                    })
                })
                .collect::<Vec<_>>()
        });
        json!({ "error": {
            "fault": self.fault.as_str(),
            "message": self.message,
            "hint": self.hint,
            "problems": problems,
        }})
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self { problems: Some(problems), ..Self::new(Fault::Config, PROBLEMS, "") }
    }
}

/// A problem as [`Failure::json`] has written it.
fn problem(value: &serde_json::Value) -> Problem {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| value[key].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    Problem {
        file: text("file"),
        line: number("line"),
        column: number("column"),
        key: text("key"),
        message: text("message"),
        hint: value["hint"].as_str().map(str::to_owned),
    }
}

/// A failure from any of our errors, with the texts of its causes.
pub(crate) fn failure<E: Diagnose>(error: &E) -> Failure {
    let (message, hint) = (chain(error), error.hint());
    Failure { hint, ..Failure::new(error.fault(), message, "") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_hint_as_text_and_as_json() {
        let failure = Failure::new(Fault::Auth, "the token is not valid", "get a new one");
        assert_eq!(failure.text(), "error: the token is not valid\nhint: get a new one\n");
        assert_eq!(failure.json()["error"]["hint"], "get a new one");
    }

    #[test]
    fn problems_of_another_process_are_shown_as_our_own() {
        let one = Problem {
            file: "adit.yaml".into(),
            line: 3,
            column: 5,
            key: "forwards.db.lisen".into(),
            message: "this key is not known".into(),
            hint: Some("did you mean `listen`?".into()),
        };
        let failure = Failure::from(Problems(vec![one]));
        let other = Failure::from_json(&failure.json().to_string()).unwrap();
        assert_eq!(other.text(), failure.text());
        let within = other.within("the reload").json().to_string();
        let text = Failure::from_json(&within).unwrap().and("everything stays as it is").text();
        assert!(text.contains("did you mean `listen`?\nerror: the reload: 1 problem"), "{text}");
        assert!(text.ends_with("hint: everything stays as it is\n"), "{text}");
    }

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: inner")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner;
        assert_eq!(chain(&Outer(Inner)), "outer: inner");
    }
}
