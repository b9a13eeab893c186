//! SCRAM (RFC 5802): a login that sends no password, and in which the server proves that it knows it, too.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Rounds that a server may ask for. Servers ask for thousands; a lying one could keep a core busy for an hour.
const ROUNDS_MAX: u32 = 500_000;
/// The longest salt.
const SALT_MAX: usize = 256;

/// Which hash is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn mac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn derive(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// One login.
pub(super) struct Scram {
    hash: Hash,
    first_bare: String,
    nonce: String,
    /// What the server must answer at the end.
    expected: Vec<u8>,
}

impl Scram {
    pub(super) fn new(hash: Hash, user: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, first_bare: format!("n={user},r={nonce}"), nonce, expected: Vec::new() }
    }

    /// What is sent first.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// What is sent on the server's challenge; `None` when that makes no sense.
    pub(super) fn answer(&mut self, challenge: &[u8], password: &str) -> Option<String> {
        let rounds = std::num::NonZeroU32::new(iterations(challenge)?)?;
        let challenge = std::str::from_utf8(challenge).ok()?;
        let nonce = attribute(challenge, 'r').filter(|nonce| nonce.starts_with(&self.nonce))?;
        let salt = attribute(challenge, 's').filter(|salt| salt.len() <= SALT_MAX)?;
        let salt = STANDARD.decode(salt).ok()?;
        let mut salted = vec![0; self.hash.digest().output_len()];
        pbkdf2::derive(self.hash.derive(), rounds, &salt, password.as_bytes(), &mut salted);
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", self.first_bare);
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(self.hash.mac(), key), text);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = sign(&salted, b"Server Key");
        self.expected = sign(server_key.as_ref(), signed.as_bytes()).as_ref().to_vec();
        Some(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server knows the password.
    pub(super) fn is_proven(&self, last: &[u8]) -> bool {
        let signature = std::str::from_utf8(last).ok().and_then(|last| attribute(last, 'v'));
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        signature.is_some_and(|given| {
            !self.expected.is_empty() && constant_time::verify_slices_are_equal(&given, &self.expected).is_ok()
        })
    }
}

/// The rounds that a challenge asks for, when they are bearable.
pub(super) fn iterations(challenge: &[u8]) -> Option<u32> {
    let rounds: u32 = attribute(std::str::from_utf8(challenge).ok()?, 'i')?.parse().ok()?;
    (1..=ROUNDS_MAX).contains(&rounds).then_some(rounds)
}

fn attribute(text: &str, name: char) -> Option<&str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_exchange_of_rfc_7677_is_ours() {
        let mut scram = Scram::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = scram.answer(challenge, "pencil").unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer, expected);
        assert!(scram.is_proven(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.is_proven(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
        assert!(!scram.is_proven(b"e=other-error"));
    }

    #[test]
    fn a_server_cannot_ask_for_endless_work_or_change_the_nonce() {
        let answer = |challenge: &str| {
            Scram::new(Hash::Sha512, "a,b=c", "abc".to_owned()).answer(challenge.as_bytes(), "x").is_some()
        };
        assert!(answer("r=abcdef,s=AAAA,i=1"));
        for wrong in ["r=abcdef,s=AAAA,i=4000000000", "r=abcdef,s=AAAA,i=0", "r=xyz,s=AAAA,i=1", "r=abc,s=*,i=1", ""] {
            assert!(!answer(wrong), "{wrong}");
        }
        assert!(!Scram::new(Hash::Sha256, "u", "n".to_owned()).is_proven(b"v="), "before there was a challenge");
        assert_eq!(Scram::new(Hash::Sha256, "a,b=c", "n".to_owned()).first(), "n,,n=a=2Cb=3Dc,r=n");
    }

    proptest! {
        #[test]
        fn no_challenge_makes_it_panic(challenge in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut scram = Scram::new(Hash::Sha256, "u", "n".to_owned());
            let _ = scram.answer(&challenge, "p");
            let _ = scram.is_proven(&challenge);
        }
    }
}
