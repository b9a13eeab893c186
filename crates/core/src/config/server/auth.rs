//! `auth`: who may connect. Tokens from a file, or JSON web tokens with pinned algorithms (rule S5).

use std::path::PathBuf;
use std::time::Duration;

use crate::config::reader::{Complaint, Section};
use crate::config::unit::parse_duration;

/// `auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// The token store; `tokens.json` in the data directory when absent.
    pub tokens_file: Option<PathBuf>,
    /// JSON web tokens, when they are accepted as well.
    pub jwt: Option<JwtConfig>,
}

/// `auth.jwt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// The only algorithms that are accepted, whatever a token's header says.
    pub algorithms: Vec<JwtAlgorithm>,
    /// What signatures are checked with.
    pub keys: JwtKeys,
    /// The `iss` that must be there.
    pub issuer: Option<String>,
    /// The `aud` that must be there.
    pub audience: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Where the grant is found in a token.
    pub claims: JwtClaims,
}

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtKeys {
    /// One public key in PEM, or the secret of HS algorithms.
    KeyFile(PathBuf),
    /// A JSON web key set.
    JwksFile(PathBuf),
}

/// The names of the claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtClaims {
    /// The account.
    pub account: String,
    /// Tunnel names it may take: a list of patterns.
    pub names: String,
    /// Public TCP ports it may take: a range.
    pub ports: String,
    /// Tunnels at most.
    pub max_tunnels: String,
}

/// A signature algorithm. There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum JwtAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl JwtAlgorithm {
    /// Every algorithm with the name in a token's header.
    pub const ALL: [(&'static str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// The name in a token's header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, algorithm)| *algorithm == self);
        found.map_or("", |(name, _)| name)
    }

    /// Whether both sides know one secret.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    fn parse(text: &str) -> Result<Self, Complaint> {
        let found = Self::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            Complaint::new(format!("`{text}` is not an algorithm that is accepted"), format!("use one of {names}"))
        })
    }
}

impl Default for JwtClaims {
    fn default() -> Self {
        Self {
            account: "account".to_owned(),
            names: "names".to_owned(),
            ports: "ports".to_owned(),
            max_tunnels: "max_tunnels".to_owned(),
        }
    }
}

pub(super) fn auth(section: Section<'_>) -> AuthConfig {
    let config =
        AuthConfig { tokens_file: section.path("tokens_file"), jwt: section.optional_section("jwt").and_then(jwt) };
    section.finish();
    config
}

fn jwt(section: Section<'_>) -> Option<JwtConfig> {
    let algorithms = algorithms(&section);
    let keys = keys(&section);
    let issuer = section.text("issuer");
    let audience = section.text("audience");
    let leeway = section.get("leeway", parse_duration).unwrap_or(Duration::from_secs(30));
    let claims = claims(section.section("claims"));
    section.finish();
    Some(JwtConfig { algorithms: algorithms?, keys: keys?, issuer, audience, leeway, claims })
}

fn algorithms(section: &Section<'_>) -> Option<Vec<JwtAlgorithm>> {
    if !section.has("algorithms") {
        section.missing("algorithms", "say which are accepted, such as [RS256]");
    }
    let algorithms = section.list("algorithms", JwtAlgorithm::parse)?;
    if algorithms.is_empty() {
        let hint = "name those that are accepted, such as [RS256]";
        section.complain("algorithms", Complaint::new("names no algorithm", hint));
    }
    let symmetric = algorithms.iter().filter(|a| a.is_symmetric()).count();
    if symmetric > 0 && symmetric < algorithms.len() {
        // With both kinds a public key could be taken for a shared secret.
        section.complain(
            "algorithms",
            Complaint::new(
                "HS algorithms must not be mixed with others",
                "use either HS256, HS384, HS512 or the others",
            ),
        );
    }
    Some(algorithms)
}

fn keys(section: &Section<'_>) -> Option<JwtKeys> {
    let key = section.path("key_file").map(JwtKeys::KeyFile);
    let jwks = section.path("jwks_file").map(JwtKeys::JwksFile);
    if section.has("key_file") && section.has("jwks_file") {
        let complaint = Complaint::new("there is a key_file as well", "keep one of the two");
        section.complain("jwks_file", complaint);
    }
    if !section.has("key_file") && !section.has("jwks_file") {
        section.missing("key_file", "set key_file (PEM) or jwks_file");
    }
    key.or(jwks)
}

fn claims(section: Section<'_>) -> JwtClaims {
    let default = JwtClaims::default();
    let claims = JwtClaims {
        account: section.text("account").unwrap_or(default.account),
        names: section.text("names").unwrap_or(default.names),
        ports: section.text("ports").unwrap_or(default.ports),
        max_tunnels: section.text("max_tunnels").unwrap_or(default.max_tunnels),
    };
    section.finish();
    claims
}
