//! `known_hosts` as OpenSSH keeps it: names, patterns, hashed names, authorities, revoked keys.

use std::fmt;

use crate::glob::GlobPattern;

/// Whether a hashed name is that of a host: salt and hash in base64, then the name. The hash is HMAC-SHA1, which this
/// crate does not have.
pub type Hashed<'a> = &'a dyn Fn(&str, &str, &str) -> bool;

/// A public key as it is written: its type and its blob in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519` and the like.
    pub kind: String,
    /// The blob, in base64.
    pub blob: String,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is known of a host's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the host's key.
    Known,
    /// Nothing is known of the host.
    Unknown,
    /// The host has another key there: somebody may be in between.
    Changed(Place),
    /// The key must not be used any more by the host.
    Revoked(Place),
}

/// The keys of a list, one a line, as `RevokedHostKeys` and `authorized_keys` have them, without options. Lines that are
/// none are passed over.
#[must_use]
pub fn key_list(text: &str) -> Vec<HostKey> {
    let key = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next().filter(|word| !word.starts_with('#'))?;
        Some(HostKey { kind: kind.to_owned(), blob: words.next()?.to_owned() })
    };
    text.lines().filter_map(key).collect()
}

/// The entries of some files, in order.
#[derive(Clone, Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    marker: Marker,
    hosts: String,
    key: HostKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    None,
    Authority,
    Revoked,
}

impl KnownHosts {
    /// Adds the entries of a file. Lines that are none are passed over, as OpenSSH does.
    pub fn read(&mut self, file: &str, text: &str) {
        let lines = text.lines().enumerate();
        self.entries.extend(lines.filter_map(|(at, line)| entry(line, Place { file: file.to_owned(), line: at + 1 })));
    }

    /// What is known of this key of a host. `name` is what [`host_name`] gives, or an alias.
    #[must_use]
    pub fn verdict(&self, name: &str, key: &HostKey, hashed: Hashed<'_>) -> Verdict {
        if let Some(place) = self.revoked(name, key, hashed) {
            return Verdict::Revoked(place);
        }
        let mut other = None;
        for entry in self.of(name, Marker::None, hashed) {
            if entry.key == *key {
                return Verdict::Known;
            }
            // Another type is no other key to OpenSSH; whoever is in between would only have to show one.
            other.get_or_insert_with(|| entry.place.clone());
        }
        other.map_or(Verdict::Unknown, Verdict::Changed)
    }

    /// Where the key is revoked for the host.
    #[must_use]
    pub fn revoked(&self, name: &str, key: &HostKey, hashed: Hashed<'_>) -> Option<Place> {
        let found = self.of(name, Marker::Revoked, hashed).into_iter().find(|entry| entry.key == *key);
        found.map(|entry| entry.place.clone())
    }

    /// The types of the keys that the host is known by; it is asked for these first.
    #[must_use]
    pub fn kinds(&self, name: &str, hashed: Hashed<'_>) -> Vec<&str> {
        self.of(name, Marker::None, hashed).into_iter().map(|entry| entry.key.kind.as_str()).collect()
    }

    /// The keys that may sign certificates of the host.
    #[must_use]
    pub fn authorities(&self, name: &str, hashed: Hashed<'_>) -> Vec<&HostKey> {
        self.of(name, Marker::Authority, hashed).into_iter().map(|entry| &entry.key).collect()
    }

    fn of(&self, name: &str, marker: Marker, hashed: Hashed<'_>) -> Vec<&Entry> {
        let name = name.to_ascii_lowercase();
        let meant = |entry: &&Entry| entry.marker == marker && is_meant(&entry.hosts, &name, hashed);
        self.entries.iter().filter(meant).collect()
    }
}

/// The name under which a server stands in `known_hosts`.
#[must_use]
pub fn host_name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn entry(line: &str, place: Place) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let mut hosts = words.next().filter(|word| !word.starts_with('#'))?;
    let marker = match hosts {
        "@cert-authority" => Marker::Authority,
        "@revoked" => Marker::Revoked,
        _ if hosts.starts_with('@') => return None,
        _ => Marker::None,
    };
    if marker != Marker::None {
        hosts = words.next()?;
    }
    let key = HostKey { kind: words.next()?.to_owned(), blob: words.next()?.to_owned() };
    Some(Entry { place, marker, hosts: hosts.to_owned(), key })
}

/// Whether a list of patterns means the host: one of them fits, and none with `!` does.
fn is_meant(hosts: &str, name: &str, hashed: Hashed<'_>) -> bool {
    if let Some(rest) = hosts.strip_prefix("|1|") {
        return rest.split_once('|').is_some_and(|(salt, hash)| hashed(salt, hash, name));
    }
    let mut meant = false;
    for pattern in hosts.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let pattern = GlobPattern::parse(&pattern.to_ascii_lowercase());
        if pattern.is_ok_and(|pattern| pattern.matches(name)) {
            if negated {
                return false;
            }
            meant = true;
        }
    }
    meant
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "\
# a comment
plain,10.0.0.1 ssh-ed25519 AAAAplain me@here
*.example.com,!bad.example.com ssh-ed25519 AAAAwild
[bastion]:2222 ssh-rsa AAAArsa
[bastion]:2222\tssh-ed25519   AAAAed
|1|salt|hash-of-hidden ssh-ed25519 AAAAhidden
@cert-authority *.corp ssh-ed25519 AAAAca
@revoked * ssh-ed25519 AAAAstolen
@strange x ssh-ed25519 AAAAx
broken ssh-ed25519
";

    fn known() -> KnownHosts {
        let mut known = KnownHosts::default();
        known.read("known_hosts", FILE);
        known
    }

    fn hashed(salt: &str, hash: &str, name: &str) -> bool {
        salt == "salt" && hash == format!("hash-of-{name}")
    }

    fn key(kind: &str, blob: &str) -> HostKey {
        HostKey { kind: kind.to_owned(), blob: blob.to_owned() }
    }

    fn verdict(name: &str, blob: &str) -> Verdict {
        known().verdict(name, &key("ssh-ed25519", blob), &hashed)
    }

    #[test]
    fn a_key_is_known_by_name_pattern_port_or_hashed_name() {
        for (name, blob) in [
            ("plain", "AAAAplain"),
            ("PLAIN", "AAAAplain"),
            ("10.0.0.1", "AAAAplain"),
            ("a.example.com", "AAAAwild"),
            ("[bastion]:2222", "AAAAed"),
            ("hidden", "AAAAhidden"),
        ] {
            assert_eq!(verdict(name, blob), Verdict::Known, "{name}");
        }
    }

    #[test]
    fn a_host_that_is_nowhere_is_unknown() {
        for name in ["other", "bad.example.com", "example.com", "bastion", "[plain]:2222", "x", "broken", "a.corp"] {
            assert_eq!(verdict(name, "AAAAplain"), Verdict::Unknown, "{name}");
        }
    }

    #[test]
    fn another_key_is_a_changed_one_and_its_line_is_named() {
        let Verdict::Changed(place) = verdict("plain", "AAAAother") else { panic!("changed") };
        assert_eq!(place.to_string(), "known_hosts:2");
        assert!(matches!(verdict("hidden", "AAAAother"), Verdict::Changed(Place { line: 6, .. })));
    }

    #[test]
    fn a_key_of_another_type_is_a_changed_one_too() {
        let verdict = known().verdict("plain", &key("ssh-rsa", "AAAAnew"), &hashed);
        assert!(matches!(verdict, Verdict::Changed(Place { line: 2, .. })));
    }

    #[test]
    fn a_revoked_key_is_refused_for_the_hosts_of_its_line() {
        assert!(matches!(verdict("other", "AAAAstolen"), Verdict::Revoked(Place { line: 8, .. })));
        let mut known = KnownHosts::default();
        known.read("f", "@revoked other.example ssh-rsa AAAA\nmine.example ssh-rsa AAAA\n");
        let verdict = |name: &str| known.verdict(name, &key("ssh-rsa", "AAAA"), &hashed);
        assert!(matches!(verdict("other.example"), Verdict::Revoked(Place { line: 1, .. })));
        assert_eq!(verdict("mine.example"), Verdict::Known);
    }

    #[test]
    fn a_list_of_keys_is_read() {
        let keys = key_list("# stolen\n\nssh-ed25519 AAAAa me@here\n  ssh-rsa AAAAb\nbroken\n");
        assert_eq!(keys, [key("ssh-ed25519", "AAAAa"), key("ssh-rsa", "AAAAb")]);
    }

    #[test]
    fn an_authority_is_one_for_its_hosts_only() {
        let known = known();
        assert_eq!(known.authorities("a.corp", &hashed), [&key("ssh-ed25519", "AAAAca")]);
        assert!(known.authorities("a.example.com", &hashed).is_empty());
    }

    #[test]
    fn the_types_of_known_keys_are_asked_for_first() {
        assert_eq!(known().kinds("[bastion]:2222", &hashed), ["ssh-rsa", "ssh-ed25519"]);
    }

    #[test]
    fn a_port_is_part_of_the_name_unless_it_is_22() {
        assert_eq!(host_name("Bastion", 22), "bastion");
        assert_eq!(host_name("::1", 2222), "[::1]:2222");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "([a-z*!,@|\\[\\]: \n#]|@revoked |ssh-rsa ){0,60}") {
            let mut known = KnownHosts::default();
            known.read("f", &text);
            let _ = known.verdict("a", &key("ssh-rsa", "b"), &hashed);
        }
    }
}
