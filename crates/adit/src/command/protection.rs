//! Contexts that are touched only after a question: `kubernetes.protect`, and `--protect`.

use adit_core::config::KubernetesConfig;
use adit_core::config::kubernetes::ProtectPattern;
use adit_core::diagnose::Fault;

use crate::report::Failure;
use crate::terminal;

/// The contexts that are touched only after a question.
pub(super) struct Protection {
    of_arguments: Vec<ProtectPattern>,
    of_file: KubernetesConfig,
    yes: bool,
}

impl Protection {
    /// What the command line and the file protect; `yes` is the answer beforehand.
    pub(super) fn new(of_arguments: &[String], yes: bool, of_file: KubernetesConfig) -> Result<Self, Failure> {
        let parse = |text: &String| {
            ProtectPattern::parse(text).map_err(|problem| {
                Failure::new(Fault::Usage, format!("--protect: {}", problem.message), problem.hint.unwrap_or_default())
            })
        };
        let of_arguments = of_arguments.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { of_arguments, of_file, yes })
    }

    fn pattern(&self, context: &str) -> Option<&ProtectPattern> {
        self.of_arguments.iter().find(|pattern| pattern.matches(context)).or_else(|| self.of_file.protects(context))
    }

    /// Asks, if this context is protected; refuses, if nobody is there to be asked.
    pub(super) fn check(&self, context: &str) -> Result<(), Failure> {
        let Some(pattern) = self.pattern(context) else { return Ok(()) };
        if self.yes {
            return Ok(());
        }
        let refusal = |message: String, hint: &str| Err(Failure::new(Fault::NotPermitted, message, hint));
        if !terminal::can_ask() {
            let message = format!("context `{context}` is protected (by `{}`)", pattern.as_str());
            return refusal(message, "add --yes if you mean this context; on a terminal adit asks instead");
        }
        match terminal::ask(&format!("context `{context}` is protected: type its name to go on: ")) {
            Some(answer) if answer == context => Ok(()),
            _ => refusal(
                format!("context `{context}` was not confirmed"),
                "type the name of the context exactly, or add --yes",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection(patterns: &[&str], yes: bool, file: &str) -> Result<Protection, Failure> {
        let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        let config = KubernetesConfig::parse("adit.yaml", file, &|_| None).unwrap();
        Protection::new(&patterns, yes, config)
    }

    #[test]
    fn a_context_is_protected_by_either_place() {
        let both = protection(&["^prod"], false, "kubernetes: { protect: [live$] }").unwrap();
        assert_eq!(both.pattern("prod-1").map(ProtectPattern::as_str), Some("^prod"));
        assert_eq!(both.pattern("eu-live").map(ProtectPattern::as_str), Some("live$"));
        assert!(both.pattern("dev").is_none());
        assert!(both.check("dev").is_ok());
    }

    #[test]
    fn yes_answers_the_question_beforehand() {
        assert!(protection(&["prod"], true, "").unwrap().check("prod").is_ok());
    }

    #[test]
    fn a_pattern_that_is_none_is_a_mistake() {
        let failure = format!("{:?}", protection(&["("], false, "").err().expect("no expression"));
        assert!(failure.contains("is not a regular expression"), "{failure}");
    }
}
