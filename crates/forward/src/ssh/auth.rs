//! Who we are to a server: keys of the agent and of files, certificates, answers, a password.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::Scope;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;

use super::ask::Secrets;
use super::dial::Notes;
use super::error::SshError;
use super::keys::{self, FileKey};
use super::link::Client;
use super::settings::Known;
use super::words::printable;

/// What an agent may take to answer; it may ask a person to confirm.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that asks more often than this has no question.
const ROUNDS_MAX: usize = 8;
/// What we log in by, in the order in which it is tried.
const METHODS: [&str; 3] = ["publickey", "keyboard-interactive", "password"];
/// How often a person may mistype.
const PROMPTS: usize = 3;

/// What came of a method.
enum Outcome {
    In,
    /// The server takes these next.
    Next(MethodSet),
    Gone,
}

/// One login.
pub(crate) struct Login<'a> {
    pub(crate) handle: &'a mut Handle<Client>,
    pub(crate) known: &'a Known,
    pub(crate) secrets: &'a Secrets,
    pub(crate) scope: &'a Scope,
    pub(crate) notes: Notes<'a>,
    pub(crate) timeout: Duration,
    /// The server may be another one: no secret is told to it, as OpenSSH has it. A signature is none.
    pub(crate) only_keys: bool,
    pub(crate) tried: Vec<String>,
    /// The first key that could not be used.
    pub(crate) unfit: Option<(Unfit, PathBuf)>,
}

/// Why a key of a file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Missing,
    Open,
    Public,
    Locked,
    Other,
}

impl Unfit {
    /// What to do about it.
    fn hint(self, path: &Path, by_key: bool) -> Option<String> {
        let file = path.display();
        Some(match self {
            Self::Missing if by_key => format!("there is no key {file}: correct its name"),
            Self::Missing => {
                format!("IdentityFile names {file}, and there is no such file: correct it in ~/.ssh/config")
            }
            Self::Open => format!("let nobody else read the key: chmod 600 {file}"),
            Self::Public => match path.to_string_lossy().strip_suffix(".pub") {
                Some(private) => format!("name the private key, {private}, or give it to the agent: ssh-add {private}"),
                None => {
                    format!("{file} is the public half: name the private key, or give it to the agent with ssh-add")
                }
            },
            Self::Locked => format!(
                "give the passphrase of {file} with $ADIT_SSH_PASSPHRASE or passphrase_file, or the key to the agent: ssh-add {file}"
            ),
            Self::Other => return None,
        })
    }
}

impl Login<'_> {
    /// Logs in by whatever the server takes and we have.
    pub(crate) async fn run(mut self) -> Result<String, SshError> {
        let user = self.known.settings.user.clone();
        let allowed = match bounded(self.timeout, Self::none(self.handle, &user)).await {
            None => return Err(self.slow()),
            Some(Err(_)) => return Err(self.gone()),
            Some(Ok(outcome)) => outcome,
        };
        let mut allowed = match allowed {
            Outcome::In => return Ok("without a credential".to_owned()),
            Outcome::Next(allowed) => allowed,
            Outcome::Gone => return Err(self.gone()),
        };
        let mut done: HashSet<&'static str> = HashSet::new();
        while let Some(method) = self.next_method(&allowed, &done) {
            done.insert(method);
            let outcome = match method {
                "publickey" => self.public_keys().await?,
                "keyboard-interactive" => self.interactive().await?,
                _ => self.password().await?,
            };
            match outcome {
                Some(Outcome::In) => {
                    let by = self.tried.pop().unwrap_or_default();
                    self.warn_of_open_keys();
                    // Whoever looks wonders about the keys that were named in vain.
                    self.tried.iter().filter_map(|tried| tried.strip_prefix("not ")).for_each(|passed| {
                        (self.notes)(format!("passed over {passed}"));
                    });
                    return Ok(by);
                }
                Some(Outcome::Next(next)) => allowed = next,
                Some(Outcome::Gone) => return Err(self.refused(&allowed, true)),
                None => {}
            }
        }
        Err(self.refused(&allowed, false))
    }

    /// Another one was let in, so that no error tells it.
    fn warn_of_open_keys(&self) {
        if let Some((Unfit::Open, path)) = &self.unfit {
            let (server, file) = (&self.known.server, path.display());
            tracing::warn!(%server, "the private key {file} is not used, as others may read it: chmod 600 {file}");
        }
    }

    /// The next method that the server takes and the settings allow, in their order.
    fn next_method(&self, allowed: &MethodSet, done: &HashSet<&'static str>) -> Option<&'static str> {
        let settings = &self.known.settings;
        let mut order: Vec<&'static str> = METHODS.to_vec();
        order.sort_by_key(|method| settings.preferred.iter().position(|preferred| preferred == method));
        let is_allowed = |method: &&str| allowed.iter().any(|kind| <&str>::from(kind) == *method);
        let is_safe = |method: &&str| !self.only_keys || *method == "publickey";
        let fits = |method: &&str| settings.allows(method) && is_allowed(method) && is_safe(method);
        order.into_iter().find(|method| !done.contains(method) && fits(method))
    }

    async fn within<T>(&self, step: impl Future<Output = Result<T, russh::Error>>) -> Result<T, SshError> {
        match tokio::time::timeout(self.timeout, step).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => {
                Err(SshError::Timeout { server: self.known.server.to_string(), after: self.timeout, step: "the login" })
            }
        }
    }

    async fn none(handle: &mut Handle<Client>, user: &str) -> Result<Outcome, russh::Error> {
        outcome(handle.authenticate_none(user).await, handle)
    }

    /// Keys of the agent that are configured, then its others, then files; certificates before their keys.
    async fn public_keys(&mut self) -> Result<Option<Outcome>, SshError> {
        let rsa = self.rsa_hash().await?;
        let (identities, configured) = (self.known.identities.clone(), self.known.certificates.clone());
        let read = move || {
            let publics: Vec<Option<PublicKey>> = identities.iter().map(|path| keys::public(path)).collect();
            (publics, keys::certificates(&identities, &configured))
        };
        let (publics, certificates) = self.aside(read).await?;
        let configured: Vec<PublicKey> = publics.iter().flatten().cloned().collect();
        let mut offered: Vec<PublicKey> = Vec::new();
        let mut last = None;
        if let Some((mut agent, identities)) = self.agent().await {
            for identity in in_order(identities, &configured, self.known.settings.identities_only) {
                let outcome = self.agent_key(&mut agent, &identity, rsa).await?;
                if let AgentIdentity::PublicKey { key, .. } = &identity {
                    offered.push(key.clone());
                }
                match outcome {
                    Some(Outcome::Next(next)) if self.goes_on(&next) => last = Some(Outcome::Next(next)),
                    Some(outcome) => return Ok(Some(outcome)),
                    None => {}
                }
            }
        }
        for (path, public) in self.known.identities.clone().into_iter().zip(publics) {
            // Without their comments, which the agent may have otherwise than the file.
            let is_offered = |key: PublicKey| offered.iter().any(|offered| offered.key_data() == key.key_data());
            if public.is_some_and(is_offered) {
                continue;
            }
            let Some(key) = self.file_key(&path).await? else { continue };
            let certificate = certificates.iter().find(|found| found.public_key() == key.public_key().key_data());
            match self.offer(&path, key, certificate, rsa).await? {
                Outcome::Next(next) if self.goes_on(&next) => last = Some(Outcome::Next(next)),
                outcome => return Ok(Some(outcome)),
            }
        }
        Ok(last)
    }

    /// Whether further keys may be tried: the server has not gone on to another method.
    fn goes_on(&self, next: &MethodSet) -> bool {
        next.contains(&MethodKind::PublicKey)
    }

    async fn rsa_hash(&self) -> Result<Option<HashAlg>, SshError> {
        let best = self.within(self.handle.best_supported_rsa_hash()).await?;
        Ok(best.unwrap_or(Some(HashAlg::Sha512)))
    }

    async fn agent(&self) -> Option<(AgentClient<UnixStream>, Vec<AgentIdentity>)> {
        let socket = self.known.agent.as_deref()?;
        let asking = async {
            let mut agent = AgentClient::connect_uds(socket).await.ok()?;
            if let Some(binding) = self.handle.agent_session_binding() {
                // Agents of other makers do not know it.
                let _ = agent.bind_session(binding, false).await;
            }
            let identities = agent.request_identities().await.ok()?;
            Some((agent, identities))
        };
        let answer = tokio::time::timeout(AGENT_TIMEOUT, asking).await.ok().flatten();
        if answer.is_none() {
            tracing::debug!(socket = %socket.display(), "the ssh agent does not answer");
        }
        answer
    }

    async fn agent_key(
        &mut self,
        agent: &mut AgentClient<UnixStream>,
        identity: &AgentIdentity,
        rsa: Option<HashAlg>,
    ) -> Result<Option<Outcome>, SshError> {
        let user = self.known.settings.user.clone();
        let hash = hash_of(&identity.public_key().algorithm(), rsa);
        self.tried.push(format!("key {} of the agent", shown(&identity.public_key())));
        let asking = async {
            match identity {
                AgentIdentity::PublicKey { key, .. } => {
                    self.handle.authenticate_publickey_with(user, key.clone(), hash, agent).await
                }
                AgentIdentity::Certificate { certificate, .. } => {
                    self.handle.authenticate_certificate_with(user, certificate.clone(), hash, agent).await
                }
            }
        };
        match tokio::time::timeout(AGENT_TIMEOUT, asking).await {
            Ok(Ok(result)) => Ok(Some(outcome_of(result, self.handle))),
            // The agent declined; the server knows nothing of it.
            Ok(Err(error)) => {
                tracing::debug!(%error, "the ssh agent does not sign");
                Ok(None)
            }
            Err(_) => Ok(Some(Outcome::Gone)),
        }
    }

    /// The key of a file, unlocked.
    async fn file_key(&mut self, path: &Path) -> Result<Option<Arc<PrivateKey>>, SshError> {
        let file = path.to_owned();
        let text = match self.aside(move || keys::read(&file)).await? {
            FileKey::Ready(key) => return Ok(Some(Arc::new(*key))),
            FileKey::Locked(text) => text,
            // Of the keys that OpenSSH looks for by itself most are not there.
            FileKey::Missing if self.known.is_looked_for(path) => return Ok(None),
            FileKey::Missing => return Ok(self.pass_over(path, Unfit::Missing, "no such file")),
            FileKey::Open(mode) => {
                let reason = format!("others may read it (mode {mode:03o})");
                return Ok(self.pass_over(path, Unfit::Open, &reason));
            }
            FileKey::Unusable(reason) => {
                let why = if reason == keys::PUBLIC { Unfit::Public } else { Unfit::Other };
                return Ok(self.pass_over(path, why, &reason));
            }
        };
        if let Some(key) = self.secrets.opened(&text) {
            return Ok(Some(key));
        }
        let question = format!("Passphrase of {}: ", path.display());
        let file = self.known.server.options.passphrase_file.as_deref();
        let mut reason = String::new();
        for _ in 0..PROMPTS {
            let passphrase = match self.secrets.passphrase(self.scope, file, &question).await {
                Ok(passphrase) => passphrase,
                Err(missing) => {
                    reason = format!("no passphrase: {missing}");
                    break;
                }
            };
            let locked = text.clone();
            // It is slow on purpose.
            if let Some(key) = self.aside(move || keys::unlock(&locked, passphrase.expose())).await? {
                let key = Arc::new(key);
                self.secrets.keep_open(text, &key);
                return Ok(Some(key));
            }
            "wrong passphrase".clone_into(&mut reason);
            if file.is_some() || !self.secrets.was_asked(&question) {
                break;
            }
            self.secrets.forget(&question);
        }
        Ok(self.pass_over(path, Unfit::Locked, &reason))
    }

    /// A key is not used: that is told, and if nothing else lets us in what to do about the first of them.
    fn pass_over<T>(&mut self, path: &Path, why: Unfit, reason: &str) -> Option<T> {
        self.tried.push(format!("not {} ({reason})", path.display()));
        if self.unfit.as_ref().is_none_or(|(known, _)| *known == Unfit::Missing && why != Unfit::Missing) {
            self.unfit = Some((why, path.to_owned()));
        }
        None
    }

    /// Does what takes long, or waits for a disk, where it holds up no stream.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, SshError> {
        let done = self.scope.spawn_blocking("ssh keys", work).await;
        done.map_err(|lost| SshError::settings(&self.known.server.to_string(), lost.to_string()))
    }

    async fn offer(
        &mut self,
        path: &Path,
        key: Arc<PrivateKey>,
        certificate: Option<&Certificate>,
        rsa: Option<HashAlg>,
    ) -> Result<Outcome, SshError> {
        let user = self.known.settings.user.clone();
        if let Some(certificate) = certificate {
            self.tried.push(format!("certificate for {}", path.display()));
            let offer = self.handle.authenticate_openssh_cert(&user, Arc::clone(&key), certificate.clone());
            let result = bounded(self.timeout, offer).await;
            match self.outcome(result)? {
                Outcome::Next(next) if self.goes_on(&next) => {}
                outcome => return Ok(outcome),
            }
        }
        self.tried.push(format!("key {}", path.display()));
        let hash = hash_of(&key.algorithm(), rsa);
        let offer = self.handle.authenticate_publickey(&user, PrivateKeyWithHashAlg::new(key, hash));
        let result = bounded(self.timeout, offer).await;
        self.outcome(result)
    }

    /// Questions that the server asks. A person may mistype, and a password that let nobody in is not said again.
    async fn interactive(&mut self) -> Result<Option<Outcome>, SshError> {
        let question = password_question(self.known);
        // Begun and not answered it would be a failed login, which the server may count.
        if !self.secrets.may_have_password(self.known.server.options.password_file.as_deref()) {
            self.tried.push("not keyboard-interactive (none given)".to_owned());
            return Ok(None);
        }
        let mut outcome = None;
        for _ in 0..PROMPTS {
            let mut was_right = false;
            let asked = self.questions(&mut was_right).await;
            let mistyped = !was_right && self.secrets.was_asked(&question);
            // A server may end the connection instead of an answer.
            if !was_right {
                self.secrets.forget(&question);
            }
            outcome = asked?;
            let goes_on =
                matches!(&outcome, Some(Outcome::Next(next)) if next.contains(&MethodKind::KeyboardInteractive));
            if !mistyped || !goes_on {
                break;
            }
        }
        Ok(outcome)
    }

    /// One round of them; nearly always it is the one for the password. `was_right`: the answers were, also where more than them is wanted.
    async fn questions(&mut self, was_right: &mut bool) -> Result<Option<Outcome>, SshError> {
        let user = self.known.settings.user.clone();
        let start = self.handle.authenticate_keyboard_interactive_start(&user, None);
        let mut answer = bounded(self.timeout, start).await;
        let mut said_password = false;
        for _ in 0..ROUNDS_MAX {
            let prompts = match answer {
                Some(Ok(KeyboardInteractiveAuthResponse::Success)) => {
                    self.tried.push("keyboard-interactive".to_owned());
                    *was_right = true;
                    return Ok(Some(Outcome::In));
                }
                Some(Ok(KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success })) => {
                    *was_right = partial_success && said_password;
                    self.tried.push(if said_password {
                        "keyboard-interactive".to_owned()
                    } else {
                        "not keyboard-interactive (it asked for no password)".to_owned()
                    });
                    return Ok(Some(Outcome::Next(remaining_methods)));
                }
                Some(Ok(KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. })) => prompts,
                Some(Err(_)) => return Ok(Some(Outcome::Gone)),
                None => return Err(self.slow()),
            };
            let mut responses = Vec::new();
            for prompt in &prompts {
                match self.answer(&prompt.prompt, prompt.echo).await {
                    Ok(said) => responses.push(said),
                    // Nothing is not an answer: the exchange is left as it is.
                    Err(missing) => {
                        self.tried.push(format!("not keyboard-interactive ({missing})"));
                        return Ok(None);
                    }
                }
                said_password = true;
            }
            let respond = self.handle.authenticate_keyboard_interactive_respond(responses);
            answer = bounded(self.timeout, respond).await;
        }
        Ok(Some(Outcome::Gone))
    }

    /// A question for the password has the same sources as the method has; others are for a person.
    async fn answer(&self, prompt: &str, visible: bool) -> Result<String, String> {
        let known = self.known;
        let question = format!("{}@{}: {}", known.settings.user, known.server.host, printable(prompt));
        let is_password = !visible && prompt.to_ascii_lowercase().contains("password");
        let secret = if is_password {
            let file = known.server.options.password_file.as_deref();
            self.secrets.password(self.scope, file, &password_question(known)).await
        } else {
            self.secrets.answer(self.scope, &question, visible).await.ok_or_else(|| "no answer".to_owned())
        };
        if !is_password {
            // A one-time code is of no use twice.
            self.secrets.forget(&question);
        }
        secret.map(adit_core::secret::Secret::into_exposed)
    }

    async fn password(&mut self) -> Result<Option<Outcome>, SshError> {
        let (user, question) = (self.known.settings.user.clone(), password_question(self.known));
        let file = self.known.server.options.password_file.as_deref();
        for _ in 0..PROMPTS {
            let password = match self.secrets.password(self.scope, file, &question).await {
                Ok(password) => password,
                Err(reason) => {
                    self.tried.push(format!("not password ({reason})"));
                    return Ok(None);
                }
            };
            self.tried.push("password".to_owned());
            let offer = self.handle.authenticate_password(&user, password.into_exposed());
            let result = bounded(self.timeout, offer).await;
            let was_right =
                matches!(result, Some(Ok(AuthResult::Success | AuthResult::Failure { partial_success: true, .. })));
            let mistyped = !was_right && self.secrets.was_asked(&question);
            // A server may end the connection instead of an answer.
            if !was_right {
                self.secrets.forget(&question);
            }
            let outcome = self.outcome(result)?;
            let goes_on = matches!(&outcome, Outcome::Next(next) if next.contains(&MethodKind::Password));
            if !mistyped || !goes_on {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    fn outcome(&self, result: Option<Result<AuthResult, russh::Error>>) -> Result<Outcome, SshError> {
        match result {
            Some(Ok(result)) => Ok(outcome_of(result, self.handle)),
            Some(Err(_)) => Ok(Outcome::Gone),
            None => Err(self.slow()),
        }
    }

    fn slow(&self) -> SshError {
        SshError::Timeout { server: self.known.server.to_string(), after: self.timeout, step: "the login" }
    }

    fn gone(&self) -> SshError {
        let reason = "the server ended the connection during the login".to_owned();
        SshError::Protocol { server: self.known.server.to_string(), reason, transient: true }
    }

    fn unfit_hint(&self) -> Option<String> {
        let (why, path) = self.unfit.as_ref()?;
        // A file that is named for all hosts and is not there is nothing to look into when there are others.
        let nothing_offered = self.tried.iter().all(|tried| tried.starts_with("not "));
        let counts = *why != Unfit::Missing || nothing_offered;
        counts.then(|| why.hint(path, self.known.server.options.key.is_some()))?
    }

    fn refused(&self, allowed: &MethodSet, cut: bool) -> SshError {
        let server = self.known.server.to_string();
        let names: Vec<&str> = allowed.iter().map(<&str>::from).collect();
        let no_method = !cut && self.tried.is_empty() && !names.iter().any(|name| METHODS.contains(name));
        let tried = if no_method {
            "nothing".to_owned()
        } else if self.tried.is_empty() {
            "nothing, as there is no key".to_owned()
        } else {
            self.tried.join(", ")
        };
        let hint = if self.only_keys {
            format!(
                "its host key has changed, so no password is sent; if that was on purpose: delete the old line from \
                 known_hosts, then adit ssh trust {server}"
            )
        } else if cut && self.tried.len() > 2 {
            "the server took offence at so many keys: name one with `key`, or set IdentitiesOnly in ~/.ssh/config"
                .to_owned()
        } else if self.tried.iter().any(|tried| tried.contains(keys::IN_HARDWARE)) {
            "only OpenSSH can use a key in hardware: `backend: openssh`".to_owned()
        } else if let Some(why) = self.known.only_openssh {
            format!("only OpenSSH can do what its settings want ({why}): `backend: openssh`")
        } else if let Some(hint) = self.unfit_hint() {
            hint
        } else if no_method {
            "what it takes, such as GSSAPI, only OpenSSH can do: `backend: openssh`".to_owned()
        } else if names == ["publickey"] {
            format!("name the key that {server} knows: IdentityFile in ~/.ssh/config, `key` in adit.yaml, or ssh-add")
        } else {
            "check user and key, or give a password with $ADIT_SSH_PASSWORD or password_file".to_owned()
        };
        let allowed = match names.is_empty() {
            true if no_method => "no method that adit knows".to_owned(),
            true => "nothing more".to_owned(),
            false => names.join(", "),
        };
        SshError::Refused { server, user: self.known.settings.user.clone(), tried, allowed, hint }
    }
}

async fn bounded<T>(timeout: Duration, step: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(timeout, step).await.ok()
}

fn outcome(result: Result<AuthResult, russh::Error>, handle: &Handle<Client>) -> Result<Outcome, russh::Error> {
    result.map(|result| outcome_of(result, handle))
}

fn outcome_of(result: AuthResult, handle: &Handle<Client>) -> Outcome {
    match result {
        AuthResult::Success => Outcome::In,
        // russh tells the end of the connection as a refusal that leaves nothing.
        AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() && handle.is_closed() => {
            Outcome::Gone
        }
        AuthResult::Failure { remaining_methods, .. } => Outcome::Next(remaining_methods),
    }
}

/// Keys of the agent: the configured ones first, the others only if they may be tried.
fn in_order(identities: Vec<AgentIdentity>, configured: &[PublicKey], only: bool) -> Vec<AgentIdentity> {
    let is_configured =
        |identity: &AgentIdentity| configured.iter().any(|key| key.key_data() == identity.public_key().key_data());
    let (mut first, rest): (Vec<_>, Vec<_>) = identities.into_iter().partition(is_configured);
    if !only {
        first.extend(rest);
    }
    first
}

fn hash_of(algorithm: &Algorithm, rsa: Option<HashAlg>) -> Option<HashAlg> {
    matches!(algorithm, Algorithm::Rsa { .. }).then_some(rsa).flatten()
}

fn shown(key: &PublicKey) -> String {
    let comment = printable(key.comment().as_ref());
    if comment.is_empty() { super::host_keys::fingerprint(key) } else { comment }
}

fn password_question(known: &Known) -> String {
    format!("Password of {}@{}: ", known.settings.user, known.server.host)
}
