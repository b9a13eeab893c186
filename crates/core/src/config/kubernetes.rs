//! The section `kubernetes` of `adit.yaml`: how clusters are reached, and which are touched only after a question.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use regex_lite::Regex;

use super::reader::{Complaint, Section};
use super::unit::parse_duration;
use super::{AgentFile, Environment, Problem, Problems};

/// The wait between two light calls to a cluster in use.
pub const KEEPALIVE: Duration = Duration::from_secs(240);
/// More often it would be a burden to the cluster, less often of no use.
const KEEPALIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// How clusters are reached.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesConfig {
    /// The kubeconfig files, merged in this order; empty is `$KUBECONFIG`, then `~/.kube/config`.
    pub kubeconfig: Vec<PathBuf>,
    /// Where credential plugins are looked for after `PATH` and the usual places.
    pub exec_path: Vec<PathBuf>,
    /// How often a cluster in use is asked for a sign of life; `None` is never.
    pub keepalive: Option<Duration>,
    /// The contexts that are touched only after a question.
    pub protect: Vec<ProtectPattern>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self { kubeconfig: Vec::new(), exec_path: Vec::new(), keepalive: Some(KEEPALIVE), protect: Vec::new() }
    }
}

impl KubernetesConfig {
    /// Parses the section of an `adit.yaml`; a file without it is as one with an empty one.
    ///
    /// # Errors
    /// With every problem of the file at once.
    pub fn parse(file: &str, text: &str, env: Environment<'_>) -> Result<Self, Problems> {
        AgentFile::parse(file, text, env).map(|file| file.kubernetes)
    }

    /// The pattern that protects a context, if one does.
    #[must_use]
    pub fn protects(&self, context: &str) -> Option<&ProtectPattern> {
        self.protect.iter().find(|pattern| pattern.matches(context))
    }
}

/// A regular expression for names of contexts. It may match any part of the name; `^` and `$` bind it to the ends.
#[derive(Clone, Debug)]
pub struct ProtectPattern(Regex);

impl ProtectPattern {
    /// Compiles it.
    ///
    /// # Errors
    /// With a problem without a place; the caller knows where the text came from.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        pattern(text).map_err(Complaint::without_place)
    }

    /// Whether the context is one of those meant.
    #[must_use]
    pub fn matches(&self, context: &str) -> bool {
        self.0.is_match(context)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for ProtectPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ProtectPattern {}

pub(super) fn read(section: Section<'_>) -> KubernetesConfig {
    let config = KubernetesConfig {
        kubeconfig: section.paths("kubeconfig").unwrap_or_default(),
        exec_path: section.paths("exec_path").unwrap_or_default(),
        keepalive: section.get("keepalive", keepalive).unwrap_or(Some(KEEPALIVE)),
        protect: section.list("protect", pattern).unwrap_or_default(),
    };
    section.finish();
    config
}

/// `0` and `off` are never.
fn keepalive(text: &str) -> Result<Option<Duration>, Complaint> {
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let wait = parse_duration(text)?;
    if !wait.is_zero() && !KEEPALIVES.contains(&wait) {
        return Err(Complaint::new(format!("{text} is no time between two calls"), "write 1s to 24h, or off"));
    }
    Ok((!wait.is_zero()).then_some(wait))
}

fn pattern(text: &str) -> Result<ProtectPattern, Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("an empty pattern would match every context", "write .* if that is meant"));
    }
    Regex::new(text).map(ProtectPattern).map_err(|error| {
        Complaint::new(
            format!("`{text}` is not a regular expression: {error}"),
            "write a part of the name, such as prod, or an expression, such as ^(prod|live)-",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<KubernetesConfig, Problems> {
        let env = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        KubernetesConfig::parse("dir/adit.yaml", text, &env)
    }

    fn section(body: &str) -> Result<KubernetesConfig, Problems> {
        parse(&format!("kubernetes: {{ {body} }}"))
    }

    fn paths(paths: &[PathBuf]) -> Vec<&str> {
        paths.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            "kubernetes:\n  kubeconfig: ~/.kube/config:/etc/kube/prod::prod.yaml\n  exec_path: [~/bin, tools]\n  \
             keepalive: 30s\n  protect: [^prod, 'live$']\n",
        )
        .unwrap();
        assert_eq!(paths(&config.kubeconfig), ["/home/me/.kube/config", "/etc/kube/prod", "dir/prod.yaml"]);
        assert_eq!(paths(&config.exec_path), ["/home/me/bin", "dir/tools"]);
        assert_eq!(config.keepalive, Some(Duration::from_secs(30)));
        assert_eq!(config.protect.iter().map(ProtectPattern::as_str).collect::<Vec<_>>(), ["^prod", "live$"]);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        for text in ["", "kubernetes:", "kubernetes: {}", "publish: {}"] {
            assert_eq!(parse(text), Ok(KubernetesConfig::default()), "{text}");
        }
        assert_eq!(KubernetesConfig::default().keepalive, Some(KEEPALIVE));
    }

    #[test]
    fn lists_may_be_written_either_way() {
        let one = section("kubeconfig: 'a:b', exec_path: 'c:d', protect: prod").unwrap();
        let many = section("kubeconfig: [a, b], exec_path: [c, d], protect: [prod]").unwrap();
        assert_eq!(one, many);
    }

    #[test]
    fn keepalive_can_be_switched_off() {
        for value in ["0", "off", "0s"] {
            assert_eq!(section(&format!("keepalive: {value}")).unwrap().keepalive, None, "{value}");
        }
    }

    #[test]
    fn a_keepalive_that_is_a_burden_or_of_no_use_is_refused() {
        for value in ["10ms", "25h"] {
            let told = section(&format!("keepalive: {value}")).unwrap_err().to_string();
            assert!(told.contains("write 1s to 24h, or off"), "{told}");
        }
    }

    #[test]
    fn each_wrong_value_is_a_problem_at_its_place() {
        let problems =
            parse("kubernetes:\n  kubeconfig: {}\n  keepalive: soon\n  protect: [prod, 'a(', '']\n  kepalive: 1s\n")
                .unwrap_err();
        let found: Vec<_> = problems.iter().map(|p| (p.line, p.key.as_str())).collect();
        assert_eq!(
            found,
            [
                (2, "kubernetes.kubeconfig"),
                (3, "kubernetes.keepalive"),
                (4, "kubernetes.protect[1]"),
                (4, "kubernetes.protect[2]"),
                (5, "kubernetes.kepalive"),
            ]
        );
        assert!(problems.0[2].message.starts_with("`a(` is not a regular expression: "), "{problems}");
        assert_eq!(problems.0[4].hint.as_deref(), Some("did you mean `keepalive`?"));
    }

    #[test]
    fn a_home_that_is_not_known_is_a_problem() {
        let problems = KubernetesConfig::parse("adit.yaml", "kubernetes: { kubeconfig: ~/x }", &|_| None).unwrap_err();
        assert!(problems.to_string().contains("HOME is not set"), "{problems}");
    }

    #[test]
    fn a_pattern_matches_any_part_of_the_name_unless_it_is_bound() {
        let config = section("protect: [prod, ^live$]").unwrap();
        for (context, pattern) in [
            ("gke_acme_prod-1", Some("prod")),
            ("live", Some("^live$")),
            ("live-2", None),
            ("staging", None),
            ("Prod", None),
        ] {
            assert_eq!(config.protects(context).map(ProtectPattern::as_str), pattern, "{context}");
        }
        assert!(ProtectPattern::parse("(?i)prod").unwrap().matches("PROD"));
        assert!(ProtectPattern::parse("[").unwrap_err().hint.is_some());
    }

    proptest! {
        #[test]
        fn no_pattern_makes_it_panic(text in any::<String>(), context in any::<String>()) {
            if let Ok(pattern) = ProtectPattern::parse(&text) {
                let _ = pattern.matches(&context);
            }
        }
    }
}
