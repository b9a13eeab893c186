//! JSON Web Tokens: pinned algorithms, keys from a file, claims for account, names and limits.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_core::accounts::Grant;
use adit_core::config::server::{JwtConfig, JwtKeys};
use adit_core::name::{Hostname, NamePattern, PortRange};
use jsonwebtoken::jwk::{JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::{AuthError, AuthFilesError, check_mode};

/// Token ids of JWT grants begin with this.
pub(super) const ID_PREFIX: &str = "jwt:";
/// A credential longer than this is not looked at.
const LENGTH_MAX: usize = 6 * 1024;

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Checks JSON Web Tokens (RFC 7519) the way RFC 8725 asks for.
pub(crate) struct JwtVerifier {
    keys: Vec<Key>,
    algorithms: Vec<Algorithm>,
    config: JwtConfig,
}

impl JwtVerifier {
    /// The file the keys come from.
    pub(crate) fn file(config: &JwtConfig) -> PathBuf {
        match &config.keys {
            JwtKeys::KeyFile(path) | JwtKeys::JwksFile(path) => path.clone(),
        }
    }

    /// Reads the keys.
    pub(crate) fn load(config: &JwtConfig) -> Result<Self, AuthFilesError> {
        let path = Self::file(config);
        let content = |reason: &str| AuthFilesError::Content { path: path.clone(), reason: reason.to_owned() };
        let algorithms: Vec<Algorithm> = config
            .algorithms
            .iter()
            .map(|name| Algorithm::from_str(name.as_str()).map_err(|_| content("an algorithm is not supported")))
            .collect::<Result<_, _>>()?;
        let bytes =
            runtime::regular_file::read(&path).map_err(|source| AuthFilesError::Read { path: path.clone(), source })?;
        let keys = if matches!(config.keys, JwtKeys::KeyFile(_)) {
            one_key(&path, &bytes, &algorithms)?
        } else {
            key_set(&bytes, &algorithms).ok_or_else(|| content("it is not a JSON Web Key Set"))?
        };
        if keys.is_empty() {
            return Err(content("none of its keys fits the algorithms"));
        }
        Ok(Self { keys, algorithms, config: config.clone() })
    }

    /// Checks a token and reads its claims.
    pub(crate) fn authenticate(&self, credential: &str, now: SystemTime) -> Result<Grant, AuthError> {
        if credential.len() > LENGTH_MAX {
            return Err(AuthError::Invalid);
        }
        let header = decode_header(credential).map_err(|_| AuthError::Invalid)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(AuthError::Invalid);
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.config.leeway.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp"]);
        if let Some(issuer) = &self.config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        match &self.config.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".into());
            }
            None => validation.validate_aud = false,
        }
        let fits = |key: &&Key| {
            key.algorithms.contains(&header.alg) && (header.kid.is_none() || key.id.is_none() || key.id == header.kid)
        };
        let mut refusal = AuthError::Invalid;
        for key in self.keys.iter().filter(fits) {
            match decode::<Map<String, Value>>(credential, &key.key, &validation) {
                Ok(token) => return self.grant(&token.claims, now),
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => {
                    refusal = AuthError::Expired;
                }
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn grant(&self, claims: &Map<String, Value>, now: SystemTime) -> Result<Grant, AuthError> {
        let names = &self.config.claims;
        let account = claims.get(&names.account).and_then(Value::as_str).ok_or(AuthError::Invalid)?;
        adit_core::accounts::check_account(account).map_err(|_| AuthError::Invalid)?;
        let (mut allow, mut hosts) = (Vec::new(), Vec::new());
        for name in texts(claims.get(&names.names)).ok_or(AuthError::Invalid)? {
            // A name with a dot is a custom host, one without a subdomain pattern.
            if name.contains('.') {
                hosts.push(Hostname::parse(&name).map_err(|_| AuthError::Invalid)?);
            } else {
                allow.push(NamePattern::parse(&name).map_err(|_| AuthError::Invalid)?);
            }
        }
        let ports = match claims.get(&names.ports) {
            None | Some(Value::Null) => None,
            Some(Value::String(range)) => Some(PortRange::parse(range).map_err(|_| AuthError::Invalid)?),
            Some(Value::Number(port)) => {
                let port = port.as_u64().and_then(|p| u16::try_from(p).ok()).ok_or(AuthError::Invalid)?;
                Some(PortRange::new(port, port).ok_or(AuthError::Invalid)?)
            }
            Some(_) => return Err(AuthError::Invalid),
        };
        let max_tunnels = match claims.get(&names.max_tunnels) {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or(AuthError::Invalid)?),
        };
        let exp = claims.get("exp").and_then(Value::as_u64).ok_or(AuthError::Invalid)?;
        let expires = UNIX_EPOCH + Duration::from_secs(exp) + self.config.leeway;
        if expires <= now {
            return Err(AuthError::Expired);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("-");
        Ok(Grant {
            account: account.to_owned(),
            token_id: format!(
                "{ID_PREFIX}{}",
                subject.chars().filter(|c| !c.is_control()).take(64).collect::<String>()
            ),
            allow,
            hosts,
            ports,
            max_tunnels,
            expires: Some(expires),
        })
    }
}

/// A claim that is a list of texts, or one text with blanks or commas between; `None` for anything else.
fn texts(claim: Option<&Value>) -> Option<Vec<String>> {
    match claim {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Some(Value::String(text)) => {
            Some(text.split([' ', ',']).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }
        Some(_) => None,
    }
}

fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

fn one_key(path: &Path, bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, AuthFilesError> {
    let content = |reason: &str| AuthFilesError::Content { path: path.to_owned(), reason: reason.to_owned() };
    let hmac = algorithms.iter().any(|a| is_hmac(*a));
    if hmac && !algorithms.iter().all(|a| is_hmac(*a)) {
        // One file cannot be both; taking a public key for a shared secret is the classic forgery (RFC 8725 section 2.1).
        return Err(content("HS algorithms cannot be mixed with others"));
    }
    if hmac {
        check_mode(path)?;
        let secret = bytes.trim_ascii();
        if secret.len() < 32 {
            return Err(content("a shared secret needs at least 32 bytes"));
        }
        return Ok(vec![Key { id: None, algorithms: algorithms.to_vec(), key: DecodingKey::from_secret(secret) }]);
    }
    let mut keys = Vec::new();
    for algorithm in algorithms {
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(bytes),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(bytes),
            _ => DecodingKey::from_rsa_pem(bytes),
        };
        if let Ok(key) = key {
            keys.push(Key { id: None, algorithms: vec![*algorithm], key });
        }
    }
    Ok(keys)
}

fn key_set(bytes: &[u8], algorithms: &[Algorithm]) -> Option<Vec<Key>> {
    let set: JwkSet = serde_json::from_slice(bytes).ok()?;
    let usable = |jwk: &jsonwebtoken::jwk::Jwk| {
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let named = jwk.common.key_algorithm.and_then(|a: KeyAlgorithm| Algorithm::from_str(&a.to_string()).ok());
        let family: Vec<Algorithm> = match &jwk.algorithm {
            jsonwebtoken::jwk::AlgorithmParameters::RSA(_) => vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            jsonwebtoken::jwk::AlgorithmParameters::EllipticCurve(_) => vec![Algorithm::ES256, Algorithm::ES384],
            jsonwebtoken::jwk::AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
            // Shared secrets do not belong into a file of public keys.
            _ => return None,
        };
        let fits: Vec<Algorithm> =
            family.into_iter().filter(|a| algorithms.contains(a) && named.is_none_or(|n| n == *a)).collect();
        (!fits.is_empty()).then(|| Key { id: jwk.common.key_id.clone(), algorithms: fits, key })
    };
    Some(set.keys.iter().filter_map(usable).collect())
}
