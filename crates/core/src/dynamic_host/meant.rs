//! What a host was meant to be that follows the grammar almost: for hints, never for routing.

use super::{CONTEXT, DynamicHosts, DynamicKind, DynamicTarget, NAMESPACE, Scheme, TLS, escape};
use crate::near;
use crate::target::PortRef;

/// Longer texts are no slips of the pen.
const LENGTH_MAX: usize = 300;
/// What is meant where no namespace is written.
const DEFAULT: &str = "default";

/// A host that was probably meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// What is wrong with what was written, in lower case, each for itself.
    pub wrong: Vec<String>,
    /// What it means without that.
    pub target: DynamicTarget,
}

impl DynamicHosts {
    /// What was probably meant by a host, lower-case and without port and trailing dot, that leads nowhere. It need not
    /// be a legal name, nor lie under the suffix. `current` is meant where no context is written.
    #[must_use]
    pub fn meant(&self, written: &str, current: Option<&str>) -> Option<Meant> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if written.len() > LENGTH_MAX || !written.bytes().all(legal) {
            return None;
        }
        let mut parts = Parts::new(written);
        parts.separate();
        parts.end_with(self.suffix.as_str())?;
        let context = parts.take_context(current)?;
        let namespace = parts.take_namespace();
        let kind = parts.take_kind()?;
        let scheme = parts.take_scheme();
        let (name, port) = parts.name_and_port(kind)?;
        let context = match self.aliases.iter().find(|(label, _)| *label == context) {
            Some((_, context)) => context.clone(),
            None if current == Some(&context) => context,
            None => escape::decode(&context)?,
        };
        let target = DynamicTarget { kind, name, port: PortRef::parse(&port).ok()?, namespace, context, scheme };
        // What is not of the grammar now is no slip either.
        self.host(&target)?;
        (!parts.wrong.is_empty()).then_some(Meant { wrong: parts.wrong, target })
    }
}

/// The labels that are left to be understood, from the right.
struct Parts {
    labels: Vec<String>,
    wrong: Vec<String>,
}

impl Parts {
    fn new(written: &str) -> Self {
        let mut parts = Self { labels: written.split('.').map(str::to_owned).collect(), wrong: Vec::new() };
        let all = parts.labels.len();
        parts.labels.retain(|label| !label.is_empty());
        if parts.labels.len() < all {
            parts.wrong("there is nothing between two of its dots");
        }
        parts
    }

    /// Notes what is wrong, once.
    fn wrong(&mut self, what: &str) {
        if !self.wrong.iter().any(|known| known == what) {
            self.wrong.push(what.to_owned());
        }
    }

    fn has(&self, word: &str) -> bool {
        self.labels.iter().any(|label| label == word)
    }

    fn has_kind(&self) -> bool {
        self.labels.iter().any(|label| DynamicKind::parse(label).is_some())
    }

    /// Puts dots where hyphens join the words of the grammar to others.
    fn separate(&mut self) {
        for words in [&[CONTEXT][..], &[NAMESPACE], &["svc", "pod"]] {
            // What is only mistyped stands where it should.
            if self.labels.iter().any(|label| words.iter().any(|word| is_like(label, word, &[]))) {
                continue;
            }
            let mut found = None;
            for (at, label) in self.labels.iter().enumerate().rev() {
                found = words.iter().find_map(|word| Some((at, apart(label, word)?)));
                if found.is_some() {
                    break;
                }
            }
            if let Some((at, labels)) = found {
                self.labels.splice(at..=at, labels);
                self.wrong("a hyphen stands where a dot belongs");
            }
        }
    }

    /// Takes the suffix away, and the word before it. `None`: it is not a name of this kind at all.
    fn end_with(&mut self, suffix: &str) -> Option<()> {
        let known = self.has(NAMESPACE) || self.has_kind();
        let end = match self.labels.iter().rposition(|label| label == CONTEXT) {
            Some(end) if known => end,
            _ => {
                let end = self.labels.len().checked_sub(self.suffix_length(suffix)?)?;
                let last = self.labels.get(end.checked_sub(1)?)?.clone();
                if !known {
                    return None;
                }
                let behind_context = self.labels[..end - 1].iter().rposition(|label| label == NAMESPACE);
                if behind_context.is_some_and(|at| at + 2 < end) && is_like(&last, CONTEXT, &["ctx", "context"]) {
                    self.wrong(&format!("`{last}` is not `{CONTEXT}`"));
                    end - 1
                } else {
                    self.wrong(&format!("`.{CONTEXT}` is missing behind the context"));
                    self.labels.insert(end, CONTEXT.to_owned());
                    end
                }
            }
        };
        let tail = self.labels.split_off(end)[1..].join(".");
        if tail.is_empty() {
            self.wrong(&format!("its end is missing, `.{suffix}`"));
        } else if tail != suffix {
            self.wrong(&format!("it ends in `{tail}`, not in `{suffix}`"));
        }
        Some(())
    }

    /// How many of the last labels are the suffix, or something like it.
    fn suffix_length(&self, suffix: &str) -> Option<usize> {
        let last = |count: usize| Some(self.labels.get(self.labels.len().checked_sub(count)?..)?.join("."));
        let all = suffix.split('.').count();
        if last(all).is_some_and(|last| last == suffix) {
            return Some(all);
        }
        (1..=all).rev().find(|count| last(*count).is_some_and(|last| is_like(&last, suffix, &[])))
    }

    /// The context's labels, behind `.ns.`, which go away with it.
    fn take_context(&mut self, current: Option<&str>) -> Option<String> {
        let at = match self.labels.iter().rposition(|label| label == NAMESPACE) {
            Some(at) => at,
            None => self.find_namespace_word()?,
        };
        let context = self.labels.split_off(at)[1..].join(".");
        if context.is_empty() {
            self.wrong("it names no context");
            return current.map(str::to_owned);
        }
        Some(context)
    }

    /// Where `ns` should stand; it stands there afterwards.
    fn find_namespace_word(&mut self) -> Option<usize> {
        let kind = self.labels.iter().rposition(|label| DynamicKind::parse(label).is_some());
        let first = kind.map_or(1, |kind| kind + 2);
        let inner = first..self.labels.len().saturating_sub(1);
        let like = |at: &usize| is_like(&self.labels[*at], NAMESPACE, &["namespace"]);
        if let Some(at) = inner.rev().find(like) {
            self.wrong(&format!("`{}` is not `{NAMESPACE}`", self.labels[at]));
            NAMESPACE.clone_into(&mut self.labels[at]);
            return Some(at);
        }
        let kind = kind?;
        let at = match self.labels.len() - kind {
            // Nothing, or the context alone, is behind it.
            0 | 1 => return None,
            2 => kind + 1,
            _ => kind + 2,
        };
        if at == kind + 2 {
            self.wrong(&format!("`.{NAMESPACE}` is missing behind the namespace"));
        }
        self.labels.insert(at, NAMESPACE.to_owned());
        Some(at)
    }

    fn take_namespace(&mut self) -> String {
        let last_is_kind = |labels: &[String]| labels.last().is_some_and(|last| DynamicKind::parse(last).is_some());
        let missing = match self.labels.as_slice() {
            // The service alone.
            [] | [_] => true,
            // Whoever calls a namespace `svc` writes the kind before it.
            [front @ .., _] => last_is_kind(&self.labels) && !last_is_kind(front),
        };
        if missing {
            self.wrong("it names no namespace");
            return DEFAULT.to_owned();
        }
        let namespace = self.labels.pop().unwrap_or_default();
        self.without_underscores(namespace)
    }

    fn take_kind(&mut self) -> Option<DynamicKind> {
        let last = self.labels.last()?.clone();
        if let Some(kind) = DynamicKind::parse(&last) {
            self.labels.pop();
            return Some(kind);
        }
        if self.labels.len() > 1 && !last.contains(['-', '_']) {
            for (kind, others) in [
                (DynamicKind::Service, &["service", "services", "svcs", "srv"][..]),
                (DynamicKind::Pod, &["pods", "po"]),
            ] {
                if is_like(&last, kind.label(), others) {
                    self.labels.pop();
                    self.wrong(&format!("`{last}` is neither `svc` nor `pod`"));
                    return Some(kind);
                }
            }
        }
        self.wrong("neither `svc` nor `pod` stands before the namespace");
        Some(DynamicKind::Service)
    }

    fn take_scheme(&mut self) -> Scheme {
        let Some(last) = self.labels.last().filter(|_| self.labels.len() > 1).cloned() else { return Scheme::Http };
        if last == "http" {
            self.labels.pop();
            self.wrong("`.http` is not written: it goes without saying");
            return Scheme::Http;
        }
        if !is_like(&last, TLS, &["tls", "ssl"]) {
            return Scheme::Http;
        }
        self.labels.pop();
        if last != TLS {
            self.wrong(&format!("`{last}` is not `{TLS}`"));
        }
        Scheme::Https
    }

    fn name_and_port(&mut self, kind: DynamicKind) -> Option<(String, String)> {
        let joined = match (kind, self.labels.as_slice()) {
            (_, [one]) => one.clone(),
            (DynamicKind::Service, [name, port]) if port.bytes().all(|b| b.is_ascii_digit()) => {
                let joined = format!("{name}-{port}");
                self.wrong("a dot stands before the port, where a hyphen belongs");
                joined
            }
            (DynamicKind::Service, _) => return None,
            (DynamicKind::Pod, labels) => labels.join("."),
        };
        let joined = self.without_underscores(joined);
        joined.rsplit_once('-').map(|(name, port)| (name.to_owned(), port.to_owned()))
    }

    fn without_underscores(&mut self, text: String) -> String {
        if !text.contains('_') {
            return text;
        }
        self.wrong("`_` cannot stand in a host name, where `-` can");
        text.replace('_', "-")
    }
}

/// The word within a label, with what hyphens join to it.
fn apart(label: &str, word: &str) -> Option<Vec<String>> {
    let joins = |byte: Option<u8>| byte.is_none_or(|byte| matches!(byte, b'-' | b'_'));
    let bytes = label.as_bytes();
    let (at, _) = label.rmatch_indices(word).find(|(at, _)| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        joins(before) && joins(bytes.get(at + word.len()).copied()) && label != word
    })?;
    let before = label[..at].trim_end_matches(['-', '_']);
    let behind = label[at + word.len()..].trim_start_matches(['-', '_']);
    let labels = [before, word, behind].into_iter().filter(|label| !label.is_empty());
    Some(labels.map(str::to_owned).collect())
}

/// Whether a word is meant to be another.
fn is_like(written: &str, word: &str, others: &[&str]) -> bool {
    others.contains(&written) || near::nearest(written, [word]).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::Hostname;

    const RIGHT: &str = "web-80.svc.default.ns.fake.cx.k8s.localhost";

    fn hosts() -> DynamicHosts {
        let aliases = [("prod".to_owned(), "arn:aws:eks/Prod".to_owned())];
        DynamicHosts::new(Hostname::parse("k8s.localhost").unwrap(), &aliases)
    }

    fn meant(written: &str) -> Option<(String, String)> {
        let hosts = hosts();
        let meant = hosts.meant(written, Some("fake"))?;
        Some((hosts.host(&meant.target).unwrap(), meant.wrong.join("; ")))
    }

    #[test]
    fn slips_of_the_pen_are_understood_and_named() {
        for (written, wrong) in [
            ("web-80.svc.default.ns.fake.cx.k8.localhost", "it ends in `k8.localhost`, not in `k8s.localhost`"),
            ("web-80.svc.default.ns.fake.cx.localhost", "it ends in `localhost`, not in `k8s.localhost`"),
            ("web-80.svc.default.ns.fake.cx.k8s", "it ends in `k8s`, not in `k8s.localhost`"),
            ("web-80.svc.default.ns.fake.cx", "its end is missing, `.k8s.localhost`"),
            ("web-80.svc.default.ns.fake.cx.k8s.lvh.me", "it ends in `k8s.lvh.me`, not in `k8s.localhost`"),
            ("web_80.svc.default.ns.fake.cx.k8s.localhost", "`_` cannot stand in a host name, where `-` can"),
            ("web-80-svc-default-ns-fake-cx.k8s.localhost", "a hyphen stands where a dot belongs"),
            ("web-80.svc.default.ns.fake.cx-k8s.localhost", "a hyphen stands where a dot belongs"),
            ("web-80.svc.default-ns-fake.cx.k8s.localhost", "a hyphen stands where a dot belongs"),
            ("web-80.svc-default.ns.fake.cx.k8s.localhost", "a hyphen stands where a dot belongs"),
            ("web.80.svc.default.ns.fake.cx.k8s.localhost", "a dot stands before the port, where a hyphen belongs"),
            ("web-80..svc.default.ns.fake.cx.k8s.localhost", "there is nothing between two of its dots"),
            ("web-80.svc..ns.fake.cx.k8s.localhost", "there is nothing between two of its dots; it names no namespace"),
            ("web-80.svc.ns.fake.cx.k8s.localhost", "it names no namespace"),
            ("web-80.svc.fake.cx.k8s.localhost", "it names no namespace"),
            ("web-80.scv.default.ns.fake.cx.k8s.localhost", "`scv` is neither `svc` nor `pod`"),
            ("web-80.service.default.ns.fake.cx.k8s.localhost", "`service` is neither `svc` nor `pod`"),
            ("web-80.default.ns.fake.cx.k8s.localhost", "neither `svc` nor `pod` stands before the namespace"),
            ("web-80.svc.default.n.fake.cx.k8s.localhost", "`n` is not `ns`"),
            ("web-80.svc.default.fake.cx.k8s.localhost", "`.ns` is missing behind the namespace"),
            ("web-80.svc.default.ns.fake.xc.k8s.localhost", "`xc` is not `cx`"),
            ("web-80.svc.default.ns.fake.k8s.localhost", "`.cx` is missing behind the context"),
            ("web-80.svc.default.ns.cx.k8s.localhost", "it names no context"),
            ("web-80.http.svc.default.ns.fake.cx.k8s.localhost", "`.http` is not written: it goes without saying"),
        ] {
            assert_eq!(meant(written), Some((RIGHT.to_owned(), wrong.to_owned())), "{written}");
        }
        let https = meant("web-443.htps.svc.default.ns.fake.cx.k8s.localhost").unwrap();
        assert_eq!(https.1, "`htps` is not `https`");
        assert_eq!(https.0, "web-443.https.svc.default.ns.fake.cx.k8s.localhost");
    }

    #[test]
    fn several_slips_are_named_together_and_names_that_look_like_words_stay() {
        let (host, wrong) = meant("web_80.scv.default.ns.fake.cx.k8.localhost").unwrap();
        assert_eq!((host.as_str(), wrong.matches(';').count()), (RIGHT, 2), "{wrong}");
        let (host, _) = meant("web-80.scv.default.ns.prod.cx.k8s.localhost").unwrap();
        assert_eq!(host, "web-80.svc.default.ns.prod.cx.k8s.localhost", "an alias stays");
        let (host, _) = meant("web-80.svc.default.ns.dev_eu.cx.k8.localhost").unwrap();
        assert_eq!(host, "web-80.svc.default.ns.dev--5feu.cx.k8s.localhost", "a context may have one");
        let (host, _) = meant("my-svc-80.scv.default.ns.fake.cx.k8s.localhost").unwrap();
        assert_eq!(host, "my-svc-80.svc.default.ns.fake.cx.k8s.localhost", "a hyphen may be right");
    }

    #[test]
    fn what_is_right_and_what_is_something_else_has_no_other_meaning() {
        for written in [
            RIGHT,
            "web.localhost",
            "example.com",
            "k8s.localhost",
            "web.svc.default.ns.fake.cx.k8s.localhost",
            "web.default.svc.cluster.local",
            "a.b.c.d.e.f",
            "web<80.scv.default.ns.fake.cx.k8s.localhost",
            "",
            "....",
            "cx.cx.cx",
            "svc",
        ] {
            assert_eq!(meant(written), None, "{written}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_meant_is_a_host_of_the_grammar(labels in prop::collection::vec(
            prop_oneof!["[a-z0-9_-]{0,6}", "svc|ns|cx|pod|k8s|localhost|https|web-80|fake"], 0..12,
        )) {
            let hosts = hosts();
            if let Some(meant) = hosts.meant(&labels.join("."), Some("fake")) {
                let host = hosts.host(&meant.target).unwrap();
                prop_assert_eq!(hosts.parse(&host), Some(Ok(meant.target)));
            }
        }
    }
}
