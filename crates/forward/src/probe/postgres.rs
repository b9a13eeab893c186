//! PostgreSQL: handshake, login, `SELECT 1`.

use adit_core::config::forwards::{PostgresProbe, ProbeTls, SslMode};
use adit_core::secret::Secret;
use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::scram::iterations;
use super::wire::{Wire, shown};
use super::{Asking, ProbeError, aside, password};

const WANTED: &str = "PostgreSQL";
/// The longest message that a handshake or an answer to `SELECT 1` has.
const MESSAGE_MAX: usize = 64 * 1024;
/// Messages between two steps at the most: settings and notices.
const MESSAGES_MAX: usize = 500;
/// Who asks when nobody logs in; the name is only needed to be answered.
const ANYBODY: &str = "postgres";

pub(super) async fn ask(asking: &Asking<'_>, probe: &PostgresProbe) -> Result<String, ProbeError> {
    let password = password(&probe.login).await?;
    let mut wire = open(asking, probe).await?;
    let mut session = Session {
        wire: &mut wire,
        user: probe.login.user.as_deref(),
        password: password.as_ref(),
        version: String::new(),
    };
    session.start(probe.database.as_deref()).await?;
    if !session.log_in().await? {
        return Ok("it asks for a password".to_owned());
    }
    session.wire.begin("waiting for the end of the login");
    match session.until_ready().await {
        Ok(()) => {}
        Err(refusal) if session.user.is_none() => return answered(refusal),
        Err(refusal) => return Err(refusal.into_error()),
    }
    if session.user.is_some() {
        session.wire.begin("waiting for the answer to SELECT 1");
        session.send(|out| frontend::query("SELECT 1", out)).await?;
        session.until_ready().await.map_err(Refusal::into_error)?;
    }
    let _ = session
        .send(|out| {
            frontend::terminate(out);
            Ok(())
        })
        .await;
    Ok(format!("{WANTED} {}", session.version).trim_end().to_owned())
}

/// A stream on which the start-up may be sent, with TLS as far as that is wanted.
async fn open<'a>(asking: &'a Asking<'_>, probe: &PostgresProbe) -> Result<Wire<'a>, ProbeError> {
    let mut wire = asking.wire(None, WANTED).await?;
    if probe.sslmode == SslMode::Disable {
        return Ok(wire);
    }
    wire.begin("asking for tls");
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    wire.send(&out).await?;
    match wire.byte().await? {
        b'S' => {
            let verify = match probe.sslmode {
                SslMode::Verify => true,
                SslMode::Require => probe.tls.ca.is_some(),
                SslMode::Prefer | SslMode::Disable => false,
            };
            let tls = ProbeTls { verify, ..probe.tls.clone() };
            let (io, plain) = wire.into_parts();
            let secured = asking.secure(io, &tls, &[b"postgresql"]).await;
            // What began with an S may have been another word.
            let (io, head) = secured.map_err(|error| plain.stranger(WANTED).unwrap_or(error))?;
            Ok(Wire::new(io, head, WANTED, asking.doing))
        }
        b'N' if probe.sslmode == SslMode::Prefer => Ok(wire),
        b'N' => Err(ProbeError::Refused { message: "the server speaks no tls, and sslmode wants it".to_owned() }),
        _ => Err(wire.puzzled("neither yes nor no to tls").await),
    }
}

/// What the server refuses, with its code.
enum Refusal {
    Said { code: String, message: String },
    Other(ProbeError),
}

impl Refusal {
    fn into_error(self) -> ProbeError {
        match self {
            Self::Said { code, message } => ProbeError::Refused { message: format!("{message} (code {code})") },
            Self::Other(error) => error,
        }
    }
}

impl From<ProbeError> for Refusal {
    fn from(error: ProbeError) -> Self {
        Self::Other(error)
    }
}

/// Whether a refusal shows a server that is well: it is not when it starts, stops, recovers, or is full.
fn answered(refusal: Refusal) -> Result<String, ProbeError> {
    match refusal {
        Refusal::Said { code, .. } if !code.starts_with("57P") && !code.starts_with("53") => {
            Ok("it answers".to_owned())
        }
        refusal => Err(refusal.into_error()),
    }
}

struct Session<'a, 'w> {
    wire: &'a mut Wire<'w>,
    user: Option<&'a str>,
    password: Option<&'a Secret<String>>,
    version: String,
}

impl Session<'_, '_> {
    async fn start(&mut self, database: Option<&str>) -> Result<(), ProbeError> {
        self.wire.begin("waiting for its answer to the start-up");
        let user = self.user.unwrap_or(ANYBODY);
        let mut pairs = vec![("user", user), ("application_name", "adit-health")];
        pairs.extend(database.map(|database| ("database", database)));
        self.send(|out| frontend::startup_message(pairs, out)).await
    }

    /// Whether we are in; not when nobody wants to.
    async fn log_in(&mut self) -> Result<bool, ProbeError> {
        for _ in 0..MESSAGES_MAX {
            let (tag, body) = self.message().await?;
            match tag {
                b'R' => match self.authenticate(&body).await? {
                    Step::In => return Ok(true),
                    Step::Stranger => return Ok(false),
                    Step::Answered => self.wire.begin("waiting for its word on the login"),
                },
                b'E' if self.user.is_none() => return answered(self.refusal(&body)).map(|_| false),
                b'E' => return Err(self.refusal(&body).into_error()),
                b'N' | b'v' => {}
                _ => break,
            }
        }
        Err(self.wire.puzzled("no end of its login").await)
    }

    async fn authenticate(&mut self, body: &[u8]) -> Result<Step, ProbeError> {
        let Some((kind, rest)) = body.split_at_checked(4) else {
            return Err(self.wire.puzzled("a login without a kind").await);
        };
        let kind = u32::from_be_bytes([kind[0], kind[1], kind[2], kind[3]]);
        if kind == 0 {
            return Ok(Step::In);
        }
        let Some(user) = self.user else { return Ok(Step::Stranger) };
        let Some(password) = self.password else {
            let message = format!("it asks for the password of `{user}`, and the probe has none");
            return Err(ProbeError::Refused { message });
        };
        let password = password.expose().as_bytes();
        match (kind, rest) {
            (3, _) => self.send(|out| frontend::password_message(password, out)).await?,
            (5, [a, b, c, d]) => {
                let hash = md5_hash(user.as_bytes(), password, [*a, *b, *c, *d]);
                self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            (10, mechanisms) if mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) => {
                self.scram(password).await?;
            }
            _ => {
                let message = format!("it asks for a login of kind {kind}, which probes do not know");
                return Err(ProbeError::Refused { message });
            }
        }
        Ok(Step::Answered)
    }

    async fn scram(&mut self, password: &[u8]) -> Result<(), ProbeError> {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
        let first = self.scram_step(11).await?;
        // Before the work that it asks for.
        let answered = match iterations(&first) {
            Some(_) => aside(move || scram.update(&first).map(|()| scram).ok()).await?,
            None => None,
        };
        let Some(mut scram) = answered else {
            return Err(self.wire.puzzled("a challenge that makes no sense").await);
        };
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        let last = self.scram_step(12).await?;
        scram.finish(&last).map_err(|_| ProbeError::Refused {
            message: "the server did not prove that it knows the password".to_owned(),
        })
    }

    async fn scram_step(&mut self, wanted: u32) -> Result<Vec<u8>, ProbeError> {
        let (tag, body) = self.message().await?;
        match (tag, body.split_at_checked(4)) {
            (b'R', Some((kind, rest))) if kind == wanted.to_be_bytes() => Ok(rest.to_vec()),
            (b'E', _) => Err(self.refusal(&body).into_error()),
            _ => Err(self.wire.puzzled("a login that stops half-way").await),
        }
    }

    /// Reads until the server takes the next command.
    async fn until_ready(&mut self) -> Result<(), Refusal> {
        let mut refusal = None;
        for _ in 0..MESSAGES_MAX {
            let read = self.message().await;
            let (tag, body) = match (read, refusal.take()) {
                // It may close behind its refusal.
                (Err(_), Some(refusal)) => return Err(refusal),
                (Err(error), None) => return Err(error.into()),
                (Ok(message), known) => {
                    refusal = known;
                    message
                }
            };
            match tag {
                b'Z' => return refusal.map_or(Ok(()), Err),
                b'E' => refusal = Some(self.refusal(&body)),
                b'S' => {
                    let mut parts = body.split(|byte| *byte == 0);
                    if parts.next() == Some(b"server_version") {
                        self.version = shown(parts.next().unwrap_or_default(), &[]);
                    }
                }
                _ => {}
            }
        }
        Err(self.wire.puzzled("no end of its answer").await.into())
    }

    async fn message(&mut self) -> Result<(u8, Vec<u8>), ProbeError> {
        let tag = self.wire.byte().await?;
        if !b"RENSKZTDCIv".contains(&tag) {
            return Err(self.wire.puzzled("a message of no known kind").await);
        }
        let length = u32::from_be_bytes(self.wire.array().await?);
        let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
        match length.filter(|length| *length <= MESSAGE_MAX) {
            Some(length) => Ok((tag, self.wire.bytes(length).await?)),
            None => Err(self.wire.puzzled("a message of no sensible length").await),
        }
    }

    /// Code and text of an error.
    fn refusal(&self, body: &[u8]) -> Refusal {
        let field = |kind: u8| {
            let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
            found.map(|field| shown(&field[1..], &[self.password])).unwrap_or_default()
        };
        Refusal::Said { code: field(b'C'), message: field(b'M') }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), ProbeError> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|error| ProbeError::Setup { reason: error.to_string() })?;
        self.wire.send(&out).await
    }
}

/// What came of one step of a login.
enum Step {
    In,
    Answered,
    Stranger,
}
