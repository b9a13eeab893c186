//! What TLS says went wrong, for people who have never heard of the library that says it.

use std::error::Error as _;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// What is wrong with a certificate, as far as it matters for what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// Nobody who is trusted has signed it.
    Issuer,
    /// It is for other names.
    Name,
    /// It is over, or not valid yet.
    Time,
    /// It is an authority's own.
    Authority,
    /// Anything else.
    Other,
}

impl Untrusted {
    /// Sorts an error of a verifier.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let Error::InvalidCertificate(error) = error else { return Self::Other };
        match error {
            CertificateError::UnknownIssuer => Self::Issuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Time,
            // The library has no word of its own for it.
            CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => Self::Authority,
            _ => Self::Other,
        }
    }
}

/// What is wrong, in lower case and without an end.
#[must_use]
pub fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(certificate) => of_certificate(error, certificate),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "its answer is not TLS".into(),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "its answer is not TLS as it should be".into()
        }
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "it speaks older versions of TLS only".into()
        }
        Error::PeerIncompatible(why) => format!("it and adit have no way in common ({})", apart(&format!("{why:?}"))),
        other => other.to_string(),
    }
}

/// The same of an error of input or output, which may hold one of TLS.
#[must_use]
pub fn in_words_of_io(error: &std::io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => in_words(tls),
        (None, std::io::ErrorKind::UnexpectedEof) => "the connection was closed in the middle".into(),
        (None, _) => error.to_string(),
    }
}

fn of_certificate(error: &Error, certificate: &CertificateError) -> String {
    match Untrusted::of(error) {
        Untrusted::Issuer => return "no authority that is trusted has signed it".into(),
        Untrusted::Authority => return "it is an authority's own certificate, which is not for servers".into(),
        Untrusted::Name => {
            return match certificate {
                CertificateError::NotValidForNameContext { expected, presented } => {
                    format!("it is for {}, not for {}", names(presented), expected.to_str())
                }
                _ => "it is for another name".into(),
            };
        }
        Untrusted::Time | Untrusted::Other => {}
    }
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".into(),
        CertificateError::Revoked => "it was revoked".into(),
        CertificateError::BadEncoding => "it cannot be read".into(),
        CertificateError::BadSignature => "its signature is wrong".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers".into()
        }
        CertificateError::Other(other) => {
            let text = other.source().map_or_else(|| other.to_string(), ToString::to_string);
            // Whoever wrote more than one word wrote it for people.
            if text.contains(' ') { text } else { format!("it was refused ({})", apart(&text)) }
        }
        other => {
            let text = format!("{other:?}");
            format!("it was refused ({})", apart(text.split([' ', '(', '{']).next().unwrap_or_default()))
        }
    }
}

/// `DnsName("a.b")`, as the library writes names, without the rest.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| match (name.find('"'), name.rfind('"')) {
        (Some(begin), Some(end)) if begin < end => name[begin + 1..end].to_owned(),
        _ => name.trim_start_matches(|c: char| c.is_ascii_alphabetic()).trim_matches(['(', ')']).to_owned(),
    };
    match presented {
        [] => "no name".into(),
        presented if presented.len() <= 4 => presented.iter().map(bare).collect::<Vec<_>>().join(", "),
        presented => {
            let first: Vec<String> = presented.iter().take(3).map(bare).collect();
            format!("{} and {} more", first.join(", "), presented.len() - 3)
        }
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "it wants a certificate of the client".into(),
        AlertDescription::UnrecognisedName => "it does not know the name it was asked for".into(),
        AlertDescription::ProtocolVersion => "it speaks other versions of TLS only".into(),
        AlertDescription::HandshakeFailure => "it and adit have no way in common".into(),
        alert => format!("it refused ({})", apart(&format!("{alert:?}"))),
    }
}

/// `BadRecordMac` as words.
fn apart(word: &str) -> String {
    let mut text = String::with_capacity(word.len() + 4);
    let mut letters = word.chars().peekable();
    let mut before_is_lower = false;
    while let Some(letter) = letters.next() {
        let is_word = letters.peek().is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (before_is_lower || is_word) && !text.is_empty() {
            text.push(' ');
        }
        before_is_lower = letter.is_lowercase();
        // What is all capitals stays so.
        if is_word { text.extend(letter.to_lowercase()) } else { text.push(letter) }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;
    use rustls::pki_types::ServerName;

    use super::*;

    #[derive(Debug)]
    struct Word(&'static str);

    impl std::fmt::Display for Word {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Word {}

    fn other(text: &'static str) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Word(text)))))
    }

    #[test]
    fn no_word_of_the_library_reaches_a_reader() {
        let expected = ServerName::try_from("app.test").unwrap();
        let presented = vec!["DnsName(\"a.test\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        let name = CertificateError::NotValidForNameContext { expected, presented };
        for (error, words) in [
            (CertificateError::UnknownIssuer.into(), "no authority that is trusted has signed it"),
            (other("CaUsedAsEndEntity"), "it is an authority's own certificate, which is not for servers"),
            (name.into(), "it is for a.test, 10.0.0.1, not for app.test"),
            (CertificateError::Expired.into(), "it has expired"),
            (other("MissingOrMalformedExtensions"), "it was refused (missing or malformed extensions)"),
            (other("its fingerprint is another"), "its fingerprint is another"),
            (InvalidMessage::InvalidContentType.into(), "its answer is not TLS"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "it wants a certificate of the client"),
            (Error::AlertReceived(AlertDescription::BadRecordMac), "it refused (bad record mac)"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "it refused (unknown CA)"),
        ] {
            assert_eq!(in_words(&error), words);
            let io = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            assert_eq!(in_words_of_io(&io), words);
        }
    }

    #[test]
    fn what_to_do_about_a_certificate_depends_on_what_is_wrong_with_it() {
        assert_eq!(Untrusted::of(&CertificateError::UnknownIssuer.into()), Untrusted::Issuer);
        assert_eq!(Untrusted::of(&CertificateError::NotValidForName.into()), Untrusted::Name);
        assert_eq!(Untrusted::of(&CertificateError::NotValidYet.into()), Untrusted::Time);
        assert_eq!(Untrusted::of(&other("CaUsedAsEndEntity")), Untrusted::Authority);
        assert_eq!(Untrusted::of(&Error::NoCertificatesPresented), Untrusted::Other);
    }
}
