//! The token store's file: JSON in and out.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Moment, STORE_VERSION, TokenRecord, TokenStore, check_account};
use crate::config::{Problem, Problems};
use crate::name::{Hostname, NamePattern, PortRange};
use crate::timestamp;
use crate::token::TokenHash;

#[derive(Deserialize)]
struct StoreIn {
    version: u32,
    // Each record is looked at by itself, so that one bad record does not hide the problems of the others.
    #[serde(default)]
    tokens: Vec<Value>,
}

#[derive(Serialize)]
struct StoreOut {
    version: u32,
    tokens: Vec<RecordText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordText {
    id: String,
    account: String,
    hash: String,
    #[serde(default)]
    allow: Vec<NamePattern>,
    #[serde(default)]
    hosts: Vec<Hostname>,
    #[serde(default)]
    ports: Option<PortRange>,
    #[serde(default)]
    max_tunnels: Option<u32>,
    created: Moment,
    #[serde(default)]
    expires: Option<Moment>,
    #[serde(default)]
    revoked: Option<Moment>,
}

pub(super) fn parse(file: &str, text: &str) -> Result<TokenStore, Problems> {
    let whole: StoreIn = serde_json::from_str(text).map_err(|error| {
        Problems::one(Problem {
            file: file.to_owned(),
            line: u32::try_from(error.line()).unwrap_or(u32::MAX),
            column: u32::try_from(error.column()).unwrap_or(u32::MAX),
            key: String::new(),
            message: without_position(&error.to_string()),
            hint: None,
        })
    })?;
    let problem =
        |key: String, message: String| Problem { file: file.to_owned(), line: 0, column: 0, key, message, hint: None };
    if whole.version != STORE_VERSION {
        let message = format!("version {} is not known; this adit reads {STORE_VERSION}", whole.version);
        return Err(Problems::one(problem("version".to_owned(), message)));
    }
    let mut store = TokenStore::new();
    let mut problems = Vec::new();
    for (index, value) in whole.tokens.into_iter().enumerate() {
        let key = |rest: &str| format!("tokens[{index}]{rest}");
        match record(value) {
            Err((rest, message)) => problems.push(problem(key(rest), message)),
            Ok(record) if store.lookup(&record.hash).is_some() => {
                problems.push(problem(key(".hash"), "the token is there twice".to_owned()));
            }
            Ok(record) => {
                store.insert(record);
            }
        }
    }
    if problems.is_empty() { Ok(store) } else { Err(Problems(problems)) }
}

pub(super) fn write(tokens: &[TokenRecord]) -> String {
    let whole = StoreOut { version: STORE_VERSION, tokens: tokens.iter().map(text_of).collect() };
    let mut text = serde_json::to_string_pretty(&whole).expect("plain text and numbers are always JSON");
    text.push('\n');
    text
}

fn record(value: Value) -> Result<TokenRecord, (&'static str, String)> {
    let text: RecordText = serde_json::from_value(value).map_err(|e| ("", e.to_string()))?;
    check_account(&text.account).map_err(|e| (".account", e.to_string()))?;
    Ok(TokenRecord {
        hash: TokenHash::parse(&text.hash).map_err(|e| (".hash", e.to_string()))?,
        created: moment(&text.created).ok_or_else(|| no_time(".created"))?,
        expires: optional_moment(text.expires.as_ref(), ".expires")?,
        revoked: optional_moment(text.revoked.as_ref(), ".revoked")?,
        id: text.id,
        account: text.account,
        allow: text.allow,
        hosts: text.hosts,
        ports: text.ports,
        max_tunnels: text.max_tunnels,
    })
}

fn text_of(record: &TokenRecord) -> RecordText {
    let seconds = |time: SystemTime| Moment::Unix(timestamp::unix(time));
    RecordText {
        id: record.id.clone(),
        account: record.account.clone(),
        hash: record.hash.to_string(),
        allow: record.allow.clone(),
        hosts: record.hosts.clone(),
        ports: record.ports,
        max_tunnels: record.max_tunnels,
        created: seconds(record.created),
        expires: record.expires.map(seconds),
        revoked: record.revoked.map(seconds),
    }
}

fn moment(moment: &Moment) -> Option<SystemTime> {
    match moment {
        Moment::Unix(seconds) => Some(timestamp::from_unix(*seconds)),
        Moment::Text(text) => timestamp::parse(text),
    }
}

fn optional_moment(text: Option<&Moment>, key: &'static str) -> Result<Option<SystemTime>, (&'static str, String)> {
    text.map(|text| moment(text).ok_or_else(|| no_time(key))).transpose()
}

fn no_time(key: &'static str) -> (&'static str, String) {
    let message = "is neither seconds since 1970 nor a time such as 2027-01-31T00:00:00Z";
    (key, message.to_owned())
}

/// The place is shown in front of the message already.
fn without_position(text: &str) -> String {
    text.split(" at line ").next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::NewToken;
    use crate::token::Token;
    use proptest::prelude::*;

    fn store() -> TokenStore {
        let mut store = TokenStore::new();
        for seed in 1..=3 {
            let new = NewToken {
                account: format!("account{seed}"),
                allow: vec![NamePattern::parse("app*").unwrap()],
                hosts: vec![Hostname::parse("shop.example.com").unwrap()],
                ports: PortRange::new(15000, 15010),
                max_tunnels: Some(4),
                expires: Some(timestamp::from_unix(5000)),
            };
            let token = Token::from_random([seed; 32]);
            store.add(&token, new, timestamp::from_unix(1000)).unwrap();
        }
        let id = Token::from_random([2; 32]).hash().id();
        store.revoke(&id, timestamp::from_unix(2000)).unwrap();
        store
    }

    #[test]
    fn a_store_is_read_back_from_its_text() {
        let store = store();
        let again = TokenStore::parse("tokens.json", &store.to_json()).unwrap();
        assert_eq!(again.records(), store.records());
        let token = Token::from_random([3; 32]);
        assert!(again.lookup(&token.hash()).is_some());
    }

    #[test]
    fn s5_the_file_holds_hashes_and_no_token() {
        let text = store().to_json();
        let token = Token::from_random([1; 32]);
        assert!(!text.contains(token.expose()));
        assert!(text.contains(&token.hash().to_string()));
    }

    #[test]
    fn a_person_may_write_times_and_leave_out_what_is_not_needed() {
        let hash = Token::from_random([1; 32]).hash();
        let text = format!(
            r#"{{"version":1,"tokens":[{{"id":"x","account":"a","hash":"{hash}","created":0,"expires":"2027-01-31T00:00:00Z"}}]}}"#
        );
        let store = TokenStore::parse("tokens.json", &text).unwrap();
        let record = store.by_id("x").unwrap();
        assert_eq!(record.expires, timestamp::parse("2027-01-31T00:00:00Z"));
        assert_eq!(record.max_tunnels, None);
    }

    #[test]
    fn all_bad_records_are_reported_together() {
        let good = "0".repeat(64);
        let text = format!(
            r#"{{"version":1,"tokens":[
                {{"id":"1","account":"a","hash":"zz","created":0}},
                {{"id":"2","account":"a b","hash":"{good}","created":0}},
                {{"id":"3","account":"a","hash":"{good}","created":"soon"}},
                {{"id":"4","account":"a","hash":"{good}","created":0,"allow":["a**"]}},
                {{"id":"5","account":"a","hash":"{good}","created":0}},
                {{"id":"6","account":"a","hash":"{good}","created":0}},
                {{"id":"7","account":"a","hash":"{good}","created":0,"port":"1"}}
            ]}}"#
        );
        let problems = TokenStore::parse("tokens.json", &text).unwrap_err();
        let keys: Vec<_> = problems.0.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(
            keys,
            ["tokens[0].hash", "tokens[1].account", "tokens[2].created", "tokens[3]", "tokens[5].hash", "tokens[6]"]
        );
    }

    #[test]
    fn broken_json_is_reported_with_its_place() {
        let problems = TokenStore::parse("tokens.json", "{\n  \"version\": 1,\n  oops\n}").unwrap_err();
        let problem = &problems.0[0];
        assert_eq!((problem.line, problem.file.as_str()), (3, "tokens.json"));
        assert!(!problem.message.contains("line"), "{}", problem.message);
    }

    #[test]
    fn a_later_version_is_not_misread() {
        let problems = TokenStore::parse("t", r#"{"version":2,"tokens":[]}"#).unwrap_err();
        assert_eq!(problems.0[0].key, "version");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = TokenStore::parse("t", &text);
        }
    }
}
