//! The token store: which tokens there are, whose they are, and what each allows (rules S5 and S7).
//!
//! The store is a JSON file; this is its model. The caller reads and writes the file.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::diagnose::{Diagnose, Fault};
use crate::name::{Hostname, NamePattern, PortRange, TunnelName};
use crate::timestamp;
use crate::token::{CREATE_EXAMPLE, Token, TokenHash};

mod file;

/// The version of the file's form.
pub const STORE_VERSION: u32 = 1;

/// What a credential allows, whether it came from a token or from a JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub account: String,
    /// The token's public id, or the JWT's.
    pub token_id: String,
    /// Tunnel names it may take; none when empty.
    pub allow: Vec<NamePattern>,
    /// Custom hosts it may take.
    pub hosts: Vec<Hostname>,
    /// Public TCP ports it may take.
    pub ports: Option<PortRange>,
    /// Tunnels at most, when fewer than the account's quota.
    pub max_tunnels: Option<u32>,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

/// One token as it is stored: everything but the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Public id, made of the hash.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// The token's hash.
    pub hash: TokenHash,
    /// Tunnel names it may take.
    pub allow: Vec<NamePattern>,
    /// Custom hosts it may take.
    pub hosts: Vec<Hostname>,
    /// Public TCP ports it may take.
    pub ports: Option<PortRange>,
    /// Tunnels at most.
    pub max_tunnels: Option<u32>,
    /// When it was made.
    pub created: SystemTime,
    /// When it ends.
    pub expires: Option<SystemTime>,
    /// When it was revoked.
    pub revoked: Option<SystemTime>,
}

/// What a new token is to allow.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Whose it is.
    pub account: String,
    /// Tunnel names it may take.
    pub allow: Vec<NamePattern>,
    /// Custom hosts it may take.
    pub hosts: Vec<Hostname>,
    /// Public TCP ports it may take.
    pub ports: Option<PortRange>,
    /// Tunnels at most.
    pub max_tunnels: Option<u32>,
    /// When it ends.
    pub expires: Option<SystemTime>,
}

/// All tokens of a server.
#[derive(Clone, Debug, Default)]
pub struct TokenStore {
    tokens: Vec<TokenRecord>,
    /// From the first bytes of a hash to the records that may have it.
    index: HashMap<u64, Vec<usize>>,
}

impl TokenStore {
    /// A store without tokens.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the file's text.
    ///
    /// # Errors
    /// With all problems of the file together.
    pub fn parse(file: &str, text: &str) -> Result<Self, crate::config::Problems> {
        file::parse(file, text)
    }

    /// The file's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        file::write(&self.tokens)
    }

    /// Stores a new token and gives back its record.
    ///
    /// # Errors
    /// When the account's name is not usable, or the very token is there already.
    pub fn add(&mut self, token: &Token, new: NewToken, now: SystemTime) -> Result<&TokenRecord, StoreError> {
        check_account(&new.account)?;
        let hash = token.hash();
        if self.lookup(&hash).is_some() {
            return Err(StoreError::Duplicate { id: hash.id() });
        }
        let at = self.insert(TokenRecord {
            id: hash.id(),
            account: new.account,
            hash,
            allow: new.allow,
            hosts: new.hosts,
            ports: new.ports,
            max_tunnels: new.max_tunnels,
            created: whole_seconds(now),
            expires: new.expires.map(whole_seconds),
            revoked: None,
        });
        Ok(&self.tokens[at])
    }

    /// Revokes a token by its public id; once revoked it stays so, with its first time.
    ///
    /// # Errors
    /// When there is no such token.
    pub fn revoke(&mut self, id: &str, now: SystemTime) -> Result<&TokenRecord, StoreError> {
        let record = self
            .tokens
            .iter_mut()
            .find(|record| record.id == id)
            .ok_or_else(|| StoreError::Unknown { id: id.to_owned() })?;
        record.revoked.get_or_insert(whole_seconds(now));
        Ok(record)
    }

    /// The record of a hash, also when it is revoked or expired.
    #[must_use]
    pub fn lookup(&self, hash: &TokenHash) -> Option<&TokenRecord> {
        let candidates = self.index.get(&hash.bucket())?;
        candidates.iter().filter_map(|at| self.tokens.get(*at)).find(|record| record.hash == *hash)
    }

    /// The record of a public id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<&TokenRecord> {
        self.tokens.iter().find(|record| record.id == id)
    }

    /// What a token allows now.
    ///
    /// # Errors
    /// When it is unknown, revoked or expired.
    pub fn authenticate(&self, token: &Token, now: SystemTime) -> Result<Grant, Refusal> {
        let record = self.lookup(&token.hash()).ok_or(Refusal::Unknown)?;
        record.check(now)?;
        Ok(record.grant())
    }

    /// All records, oldest first.
    #[must_use]
    pub fn records(&self) -> &[TokenRecord] {
        &self.tokens
    }

    pub(crate) fn insert(&mut self, record: TokenRecord) -> usize {
        let at = self.tokens.len();
        self.index.entry(record.hash.bucket()).or_default().push(at);
        self.tokens.push(record);
        at
    }
}

impl TokenRecord {
    /// Whether the token is good at this time.
    ///
    /// # Errors
    /// When it is revoked or expired.
    pub fn check(&self, now: SystemTime) -> Result<(), Refusal> {
        if self.revoked.is_some() {
            return Err(Refusal::Revoked);
        }
        if self.expires.is_some_and(|end| end <= now) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// What the token allows.
    #[must_use]
    pub fn grant(&self) -> Grant {
        Grant {
            account: self.account.clone(),
            token_id: self.id.clone(),
            allow: self.allow.clone(),
            hosts: self.hosts.clone(),
            ports: self.ports,
            max_tunnels: self.max_tunnels,
            expires: self.expires,
        }
    }
}

impl Grant {
    /// Whether it allows this tunnel name. Reserved names are the caller's to refuse as well.
    #[must_use]
    pub fn may_take_name(&self, name: &TunnelName) -> bool {
        self.allow.iter().any(|pattern| pattern.matches(name.as_str()))
    }

    /// Whether it allows this custom host.
    #[must_use]
    pub fn may_take_host(&self, host: &Hostname) -> bool {
        self.hosts.contains(host)
    }

    /// Whether it allows this public port.
    #[must_use]
    pub fn may_take_port(&self, port: u16) -> bool {
        self.ports.is_some_and(|range| range.contains(port))
    }

    /// Whether it is over.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// Why a credential is refused. What a stranger is told does not tell these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such token.
    #[error("the token is not known")]
    Unknown,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

impl Diagnose for Refusal {
    fn fault(&self) -> Fault {
        match self {
            Self::Unknown | Self::Revoked | Self::Expired => Fault::Auth,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown => Some("check that it is the token of this server".to_owned()),
            Self::Revoked | Self::Expired => {
                Some(format!("ask whoever runs the server for a new one: {CREATE_EXAMPLE}"))
            }
        }
    }
}

/// Why the store cannot do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No token has this id.
    #[error("there is no token `{id}`")]
    Unknown {
        /// The id asked for.
        id: String,
    },
    /// The token is there already.
    #[error("the token `{id}` is there already")]
    Duplicate {
        /// Its id.
        id: String,
    },
    /// A name that no account can have.
    #[error("`{name}` cannot be the name of an account")]
    Account {
        /// The name asked for.
        name: String,
    },
}

impl Diagnose for StoreError {
    fn fault(&self) -> Fault {
        match self {
            Self::Unknown { .. } | Self::Duplicate { .. } | Self::Account { .. } => Fault::Usage,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some("see the ids: adit server token list".to_owned()),
            Self::Duplicate { .. } => None,
            Self::Account { .. } => Some("use 1 to 64 letters, digits, `-`, `_`, `.` or `@`".to_owned()),
        }
    }
}

/// Checks the name of an account: it appears in logs, labels and file names.
///
/// # Errors
/// When it is empty, longer than 64 characters, or has a character other than letters, digits, `-`, `_`, `.` and `@`.
pub fn check_account(name: &str) -> Result<(), StoreError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(legal) {
        return Err(StoreError::Account { name: name.to_owned() });
    }
    Ok(())
}

/// The file keeps seconds; the store in memory must not differ from the one that is read back.
fn whole_seconds(time: SystemTime) -> SystemTime {
    timestamp::from_unix(timestamp::unix(time))
}

/// A time in the file: seconds since 1970, or RFC 3339 when a person wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Moment {
    Unix(u64),
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        timestamp::from_unix(seconds)
    }

    fn new_token(account: &str, allow: &[&str]) -> NewToken {
        NewToken {
            account: account.to_owned(),
            allow: allow.iter().map(|p| NamePattern::parse(p).unwrap()).collect(),
            ..NewToken::default()
        }
    }

    fn one_token() -> (TokenStore, Token) {
        let mut store = TokenStore::new();
        let token = Token::from_random([1; 32]);
        store.add(&token, new_token("a", &["app*"]), at(1000)).unwrap();
        (store, token)
    }

    #[test]
    fn a_stored_token_is_found_by_its_hash_and_grants_what_was_asked_for() {
        let (store, token) = one_token();
        let grant = store.authenticate(&token, at(2000)).unwrap();
        assert_eq!(grant.account, "a");
        assert_eq!(grant.token_id, token.hash().id());
        assert!(grant.may_take_name(&TunnelName::parse("app7").unwrap()));
        assert!(!grant.may_take_name(&TunnelName::parse("shop").unwrap()));
        assert_eq!(store.records().len(), 1);
        assert!(store.by_id(&grant.token_id).is_some());
    }

    #[test]
    fn s5_an_unknown_token_is_refused() {
        let (store, _) = one_token();
        let other = Token::from_random([2; 32]);
        assert_eq!(store.authenticate(&other, at(1)), Err(Refusal::Unknown));
    }

    #[test]
    fn s5_a_revoked_token_is_refused_and_keeps_its_first_time() {
        let (mut store, token) = one_token();
        let id = token.hash().id();
        store.revoke(&id, at(1500)).unwrap();
        assert_eq!(store.revoke(&id, at(1600)).unwrap().revoked, Some(at(1500)));
        assert_eq!(store.authenticate(&token, at(1500)), Err(Refusal::Revoked));
        let error = store.revoke("t00", at(1)).unwrap_err();
        assert_eq!(error, StoreError::Unknown { id: "t00".into() });
    }

    #[test]
    fn s5_a_token_ends_at_its_expiry() {
        let mut store = TokenStore::new();
        let token = Token::from_random([3; 32]);
        let new = NewToken { expires: Some(at(2000)), ..new_token("a", &["*"]) };
        store.add(&token, new, at(1000)).unwrap();
        let grant = store.authenticate(&token, at(1999)).unwrap();
        assert!(!grant.expired(at(1999)) && grant.expired(at(2000)));
        assert_eq!(store.authenticate(&token, at(2000)), Err(Refusal::Expired));
    }

    #[test]
    fn a_grant_without_names_hosts_or_ports_allows_none() {
        let grant = Grant {
            account: "a".into(),
            token_id: "t".into(),
            allow: vec![],
            hosts: vec![],
            ports: None,
            max_tunnels: None,
            expires: None,
        };
        assert!(!grant.may_take_name(&TunnelName::parse("a").unwrap()));
        assert!(!grant.may_take_host(&Hostname::parse("a.b").unwrap()));
        assert!(!grant.may_take_port(15000));
        assert!(!grant.expired(at(u64::MAX)));
    }

    #[test]
    fn a_grant_allows_its_hosts_and_ports() {
        let grant = Grant {
            account: "a".into(),
            token_id: "t".into(),
            allow: vec![],
            hosts: vec![Hostname::parse("shop.example.com").unwrap()],
            ports: PortRange::new(15000, 15010),
            max_tunnels: None,
            expires: None,
        };
        assert!(grant.may_take_host(&Hostname::parse("SHOP.example.com").unwrap()));
        assert!(!grant.may_take_host(&Hostname::parse("x.shop.example.com").unwrap()));
        assert!(grant.may_take_port(15010) && !grant.may_take_port(15011));
    }

    #[test]
    fn the_same_token_is_not_stored_twice() {
        let (mut store, token) = one_token();
        let error = store.add(&token, new_token("b", &["*"]), at(1)).unwrap_err();
        assert_eq!(error, StoreError::Duplicate { id: token.hash().id() });
    }

    #[test]
    fn an_account_needs_a_usable_name() {
        let token = Token::from_random([4; 32]);
        let long = "a".repeat(65);
        for name in ["", "a b", "a/b", "é", "a\n", long.as_str()] {
            let error = TokenStore::new().add(&token, new_token(name, &[]), at(1)).unwrap_err();
            assert!(matches!(error, StoreError::Account { .. }), "{name}");
        }
        assert!(check_account("me@example.com").is_ok());
    }

    #[test]
    fn times_in_the_store_are_whole_seconds_as_in_the_file() {
        let mut store = TokenStore::new();
        let token = Token::from_random([5; 32]);
        let now = at(1000) + Duration::from_millis(700);
        let record = store.add(&token, new_token("a", &[]), now).unwrap();
        assert_eq!(record.created, at(1000));
    }

    #[test]
    fn refusals_are_auth_faults_with_a_way_on() {
        for refusal in [Refusal::Unknown, Refusal::Revoked, Refusal::Expired] {
            assert_eq!(refusal.fault(), Fault::Auth);
            assert!(refusal.hint().is_some());
        }
    }

    /// What may be done to a store.
    #[derive(Clone, Debug)]
    enum Step {
        Add { seed: u8, lives: Option<u64> },
        Revoke { seed: u8 },
        Pass { seconds: u64 },
        Reread,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..8, proptest::option::of(0u64..50)).prop_map(|(seed, lives)| Step::Add { seed, lives }),
            (0u8..8).prop_map(|seed| Step::Revoke { seed }),
            (0u64..20).prop_map(|seconds| Step::Pass { seconds }),
            Just(Step::Reread),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn a_store_does_what_a_plain_map_would(steps in steps()) {
            let token = |seed: u8| Token::from_random([seed; 32]);
            let mut store = TokenStore::new();
            // Seed → (end, revoked).
            let mut model: HashMap<u8, (Option<u64>, bool)> = HashMap::new();
            let mut now = 1000;
            for step in steps {
                match step {
                    Step::Add { seed, lives } => {
                        let end = lives.map(|lives| now + lives);
                        let new = NewToken { expires: end.map(at), ..new_token("a", &["*"]) };
                        let added = store.add(&token(seed), new, at(now)).is_ok();
                        prop_assert_eq!(added, !model.contains_key(&seed));
                        model.entry(seed).or_insert((end, false));
                    }
                    Step::Revoke { seed } => {
                        let revoked = store.revoke(&token(seed).hash().id(), at(now)).is_ok();
                        prop_assert_eq!(revoked, model.contains_key(&seed));
                        model.entry(seed).and_modify(|entry| entry.1 = true);
                    }
                    Step::Pass { seconds } => now += seconds,
                    Step::Reread => store = TokenStore::parse("t", &store.to_json()).unwrap(),
                }
                for seed in 0..8 {
                    let found = store.authenticate(&token(seed), at(now)).map(|grant| grant.token_id);
                    let expected = match model.get(&seed) {
                        None => Err(Refusal::Unknown),
                        Some((_, true)) => Err(Refusal::Revoked),
                        Some((Some(end), false)) if *end <= now => Err(Refusal::Expired),
                        Some(_) => Ok(token(seed).hash().id()),
                    };
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
