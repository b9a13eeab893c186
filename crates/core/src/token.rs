//! Tokens: `adit_` and 43 characters that stand for 32 random bytes (rule S5).
//!
//! A server keeps only the hash. With 256 random bits a plain SHA-256 is enough: there is nothing to guess.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::diagnose::{Diagnose, Fault};

/// What every token starts with, so that scanners find leaked ones.
pub const PREFIX: &str = "adit_";

/// Makes a token as it stands: for hints.
pub const CREATE_EXAMPLE: &str = "adit server token create --account NAME --allow '*'";

/// Characters after the prefix: 32 bytes in base64url without padding.
const BODY: usize = 43;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A token. It has no `Display`; `Debug` shows the id only.
#[derive(Clone)]
pub struct Token {
    text: Box<str>,
}

impl Token {
    /// A token made of random bytes; the caller has the source of randomness.
    #[must_use]
    pub fn from_random(random: [u8; 32]) -> Self {
        let mut text = String::with_capacity(PREFIX.len() + BODY);
        text.push_str(PREFIX);
        encode(&random, &mut text);
        Self { text: text.into() }
    }

    /// Parses a token as a user gives it; white space around it is ignored.
    ///
    /// # Errors
    /// When it has not the form of a token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() != BODY {
            return Err(TokenError::Length { length: body.len() });
        }
        if !is_canonical(body.as_bytes()) {
            return Err(TokenError::Characters);
        }
        Ok(Self { text: text.into() })
    }

    /// The hash under which a server knows the token.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.text.as_bytes()).into())
    }

    /// The token itself, for the one message that carries it and the one line that prints it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.hash().id())
    }
}

/// The SHA-256 of a token's text. Comparisons take the same time wherever the difference is.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// A hash from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(TokenError::Hash);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]).ok_or(TokenError::Hash)? << 4 | nibble(pair[1]).ok_or(TokenError::Hash)?;
        }
        Ok(Self(bytes))
    }

    /// A short public name for the token: safe to log, enough to revoke by.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = String::from("t");
        for byte in &self.0[..6] {
            push_hex(*byte, &mut id);
        }
        id
    }

    /// The first eight bytes, to find candidates by before the comparison in constant time.
    ///
    /// Their timing tells nothing: nobody can make a token for a hash.
    #[must_use]
    pub(crate) fn bucket(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            push_hex(byte, &mut text);
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({})", self.id())
    }
}

/// Why a text is no token. It never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty")]
    Empty,
    /// It does not start with `adit_`.
    #[error("a token starts with `adit_`")]
    Prefix,
    /// Too short or too long, as after a bad copy.
    #[error("a token has 43 characters after `adit_`; this one has {length}")]
    Length {
        /// How many it has.
        length: usize,
    },
    /// A character that no token has.
    #[error("the token has characters that no token has")]
    Characters,
    /// A stored hash that is not 64 hexadecimal digits.
    #[error("a token's hash is 64 hexadecimal digits")]
    Hash,
}

impl Diagnose for TokenError {
    fn fault(&self) -> Fault {
        match self {
            Self::Empty | Self::Prefix | Self::Length { .. } | Self::Characters => Fault::Auth,
            Self::Hash => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::Prefix | Self::Length { .. } | Self::Characters => {
                Some("copy the whole line that `adit server token create` printed".to_owned())
            }
            Self::Hash => Some(format!("make the token again: {CREATE_EXAMPLE}")),
        }
    }
}

fn encode(bytes: &[u8; 32], text: &mut String) {
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..=chunk.len() {
            let digit = (bits >> (18 - 6 * index)) & 0x3f;
            text.push(char::from(ALPHABET[digit as usize]));
        }
    }
}

/// Legal characters, and no set bits beyond the 256: one token has one text.
fn is_canonical(body: &[u8]) -> bool {
    let digit = |b: &u8| ALPHABET.iter().position(|a| a == b);
    body.iter().all(|b| digit(b).is_some()) && body.last().and_then(digit).is_some_and(|last| last % 4 == 0)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn push_hex(byte: u8, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_has_its_prefix_and_43_characters() {
        let token = Token::from_random([0; 32]);
        assert_eq!(token.expose(), format!("adit_{}", "A".repeat(43)));
        let token = Token::from_random([0xff; 32]);
        assert_eq!(token.expose(), format!("adit_{}8", "_".repeat(42)));
    }

    #[test]
    fn the_hash_is_the_sha_256_of_the_whole_text() {
        let token = Token::from_random([0; 32]);
        // As `printf adit_AAA… | sha256sum` says.
        let expected = "ac609d9cf2de1c2c9b4d5f50c658016febfd7fd91780d412ae7fa7305f2e9a65";
        assert_eq!(token.hash().to_string(), expected);
        assert_eq!(token.hash().id(), "tac609d9cf2de");
        assert_eq!(TokenHash::parse(&token.hash().to_string()), Ok(token.hash()));
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_reason() {
        let good = Token::from_random([7; 32]).expose().to_owned();
        assert_eq!(Token::parse(" \n").unwrap_err(), TokenError::Empty);
        assert_eq!(Token::parse("test-token").unwrap_err(), TokenError::Prefix);
        assert_eq!(Token::parse(&good[..40]).unwrap_err(), TokenError::Length { length: 35 });
        assert_eq!(Token::parse(&good.replace("BwcH", "Bw+H")).unwrap_err(), TokenError::Characters);
        assert!(Token::parse(&format!(" {good}\n")).is_ok());
    }

    #[test]
    fn one_token_has_one_text() {
        let mut text = Token::from_random([0; 32]).expose().to_owned();
        text.pop();
        text.push('B');
        assert_eq!(Token::parse(&text).unwrap_err(), TokenError::Characters);
    }

    #[test]
    fn s6_a_token_does_not_show_itself() {
        let token = Token::from_random([9; 32]);
        let shown = format!("{token:?} {:?}", token.hash());
        assert!(!shown.contains(&token.expose()[PREFIX.len()..]));
        assert!(shown.contains(&token.hash().id()));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"é".repeat(32)] {
            assert_eq!(TokenHash::parse(text), Err(TokenError::Hash), "{text}");
        }
        assert_eq!(TokenError::Hash.fault(), Fault::Config);
        assert_eq!(TokenError::Empty.fault(), Fault::Auth);
    }

    proptest! {
        #[test]
        fn a_token_is_read_back_from_its_text(random in any::<[u8; 32]>()) {
            let token = Token::from_random(random);
            let again = Token::parse(token.expose()).unwrap();
            prop_assert_eq!(again.hash(), token.hash());
        }

        #[test]
        fn two_tokens_differ(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
            prop_assume!(a != b);
            let (a, b) = (Token::from_random(a), Token::from_random(b));
            prop_assert_ne!(a.expose(), b.expose());
            prop_assert_ne!(a.hash(), b.hash());
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&format!("adit_{text}"));
            let _ = TokenHash::parse(&text);
        }
    }
}
