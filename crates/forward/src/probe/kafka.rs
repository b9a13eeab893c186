//! Kafka: `ApiVersions`, a login when there is a user, then `Metadata` of the cluster.
//!
//! Four requests in their oldest forms that every broker knows are written by hand: libraries take memory for as many
//! items as a broker announces, before they are there.

use adit_core::config::forwards::{KafkaProbe, SaslMechanism};
use adit_core::secret::Secret;
use bytes::{Buf as _, BufMut as _};

use super::scram::{Hash, Scram};
use super::wire::{Wire, shown};
use super::{Asking, ProbeError, aside, password};

const WANTED: &str = "Kafka";
/// An answer at the most; the metadata of a thousand brokers has some 60 KiB.
const ANSWER_MAX: usize = 1024 * 1024;

const METADATA: (i16, i16) = (3, 1);
const SASL_HANDSHAKE: (i16, i16) = (17, 1);
const API_VERSIONS: (i16, i16) = (18, 0);
const SASL_AUTHENTICATE: (i16, i16) = (36, 0);

/// The broker does not know the login's kind.
const UNSUPPORTED_MECHANISM: i16 = 33;

pub(super) async fn ask(asking: &Asking<'_>, probe: &KafkaProbe) -> Result<String, ProbeError> {
    let password = password(&probe.login).await?;
    let wire = asking.wire(probe.tls.as_ref(), WANTED).await?;
    let mut broker = Broker { wire, correlation: 0, password: password.as_ref() };
    broker.wire.begin("asking for its versions");
    let answer = broker.ask(API_VERSIONS, &[]).await?;
    let Some(versions) = versions(&answer) else {
        return Err(broker.wire.puzzled("no list of versions").await);
    };
    if let (Some(user), Some(password)) = (&probe.login.user, &password) {
        broker.wire.begin("logging in");
        broker.log_in(probe.mechanism, user, password).await?;
    }
    if !versions.iter().any(|(key, from, to)| *key == METADATA.0 && *from <= METADATA.1 && METADATA.1 <= *to) {
        return Err(broker.wire.puzzled("it tells no metadata").await);
    }
    broker.wire.begin("asking for the cluster");
    // No topics: only the brokers are of interest.
    let answer = broker.ask(METADATA, &0_i32.to_be_bytes()).await?;
    match brokers(&answer) {
        Some(0) => Err(ProbeError::Refused { message: "the cluster has no broker".to_owned() }),
        Some(1) => Ok("1 broker".to_owned()),
        Some(count) => Ok(format!("{count} brokers")),
        None => Err(broker.wire.puzzled("metadata that makes no sense").await),
    }
}

struct Broker<'a> {
    wire: Wire<'a>,
    correlation: i32,
    password: Option<&'a Secret<String>>,
}

impl Broker<'_> {
    /// Sends a request, reads its answer.
    async fn ask(&mut self, (key, version): (i16, i16), body: &[u8]) -> Result<Vec<u8>, ProbeError> {
        self.correlation += 1;
        let mut request = Vec::new();
        request.put_i16(key);
        request.put_i16(version);
        request.put_i32(self.correlation);
        put_text(&mut request, "adit-health");
        request.put_slice(body);
        let mut framed = Vec::new();
        framed.put_u32(u32::try_from(request.len()).unwrap_or(u32::MAX));
        framed.put_slice(&request);
        self.wire.send(&framed).await?;
        let length = usize::try_from(u32::from_be_bytes(self.wire.array().await?)).unwrap_or(usize::MAX);
        if !(4..=ANSWER_MAX).contains(&length) {
            return Err(self.wire.puzzled("an answer of no sensible length").await);
        }
        if i32::from_be_bytes(self.wire.array().await?) != self.correlation {
            return Err(self.wire.puzzled("an answer to something else").await);
        }
        self.wire.bytes(length - 4).await
    }

    async fn log_in(
        &mut self,
        mechanism: SaslMechanism,
        user: &str,
        password: &Secret<String>,
    ) -> Result<(), ProbeError> {
        let mut body = Vec::new();
        put_text(&mut body, mechanism.name());
        let answer = self.ask(SASL_HANDSHAKE, &body).await?;
        match Answer(&answer).i16() {
            Some(0) => {}
            Some(UNSUPPORTED_MECHANISM) => {
                let known = mechanisms(&answer).unwrap_or_default();
                let message = format!("it knows no login by {} (it knows {known})", mechanism.name());
                return Err(ProbeError::Refused { message });
            }
            Some(code) => return Err(refused("the login", code, "")),
            None => return Err(self.wire.puzzled("no answer to the login").await),
        }
        let hash = match mechanism {
            SaslMechanism::Plain => {
                let token = format!("\0{user}\0{}", password.expose());
                return self.authenticate(token.as_bytes()).await.map(drop);
            }
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
        };
        let mut scram = Scram::new(hash, user, format!("{:032x}", rand::random::<u128>()));
        let challenge = self.authenticate(scram.first().as_bytes()).await?;
        let password = password.clone();
        let (scram, proof) = aside(move || {
            let proof = scram.answer(&challenge, password.expose());
            (scram, proof)
        })
        .await?;
        let Some(proof) = proof else {
            return Err(self.wire.puzzled("a challenge that makes no sense").await);
        };
        let last = self.authenticate(proof.as_bytes()).await?;
        if !scram.is_proven(&last) {
            let message = "the broker did not prove that it knows the password".to_owned();
            return Err(ProbeError::Refused { message });
        }
        Ok(())
    }

    async fn authenticate(&mut self, token: &[u8]) -> Result<Vec<u8>, ProbeError> {
        let mut body = Vec::new();
        body.put_i32(i32::try_from(token.len()).unwrap_or(i32::MAX));
        body.put_slice(token);
        let answer = self.ask(SASL_AUTHENTICATE, &body).await?;
        let mut answer = Answer(&answer);
        let read = (|| Some((answer.i16()?, answer.text()?.unwrap_or_default(), answer.blob()?)))();
        match read {
            Some((0, _, token)) => Ok(token.to_vec()),
            Some((code, said, _)) => Err(refused("the login", code, &shown(said, &[self.password]))),
            None => Err(self.wire.puzzled("no answer to the login").await),
        }
    }
}

fn refused(what: &str, code: i16, said: &str) -> ProbeError {
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    ProbeError::Refused { message: format!("{what} was refused{said} (error {code})") }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    out.put_slice(text.as_bytes());
}

/// Key and first and last version of what a broker does.
fn versions(answer: &[u8]) -> Option<Vec<(i16, i16, i16)>> {
    let mut answer = Answer(answer);
    if answer.i16()? != 0 {
        return None;
    }
    let count = answer.i32()?;
    let mut found = Vec::new();
    for _ in 0..count {
        found.push((answer.i16()?, answer.i16()?, answer.i16()?));
    }
    Some(found)
}

fn mechanisms(answer: &[u8]) -> Option<String> {
    let mut answer = Answer(answer);
    answer.i16()?;
    let count = answer.i32()?;
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(shown(answer.text()??, &[]));
    }
    Some(found.join(", "))
}

/// How many brokers there are; all of the answer must make sense.
fn brokers(answer: &[u8]) -> Option<i32> {
    let mut answer = Answer(answer);
    let count = answer.i32()?;
    for _ in 0..count {
        let (_id, host, _port, _rack) = (answer.i32()?, answer.text()?, answer.i32()?, answer.text()?);
        host?;
    }
    let _controller = answer.i32()?;
    (count >= 0).then_some(count)
}

/// What is left of an answer; `None` at its end. Nothing is taken for granted of its counts.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn i16(&mut self) -> Option<i16> {
        (self.0.len() >= 2).then(|| self.0.get_i16())
    }

    fn i32(&mut self) -> Option<i32> {
        (self.0.len() >= 4).then(|| self.0.get_i32())
    }

    /// A text, which may be none.
    fn text(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.i16()?;
        if length < 0 {
            return Some(None);
        }
        self.take(usize::try_from(length).ok()?).map(Some)
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let length = self.i32()?;
        self.take(usize::try_from(length.max(0)).ok()?)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brokers_are_counted() {
        let one = [&[0, 0, 0, 1][..], &[0, 0, 0, 7], &[0, 1, b'h'], &[0, 0, 0x23, 0x84], &[0xff, 0xff], &[0, 0, 0, 7]];
        assert_eq!(brokers(&one.concat()), Some(1));
        assert_eq!(brokers(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), Some(0));
        assert_eq!(brokers(&[0x7f, 0xff, 0xff, 0xff, 0, 0]), None, "a count is no promise");
        assert_eq!(brokers(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (versions(&answer), brokers(&answer), mechanisms(&answer));
        }
    }
}
