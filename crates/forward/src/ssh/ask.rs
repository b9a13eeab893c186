//! Secrets: from files, from the environment, from a person.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use adit_core::secret::Secret;
use runtime::Scope;
use runtime::password::read_password;
use russh::keys::PrivateKey;

/// The environment's password.
const PASSWORD: &str = "ADIT_SSH_PASSWORD";
/// The environment's passphrase.
const PASSPHRASE: &str = "ADIT_SSH_PASSPHRASE";

/// What of the environment is ours alone, and for no process that is started.
pub const SECRET_VARIABLES: [&str; 2] = [PASSWORD, PASSPHRASE];

/// Asks a person: the question, and whether the answer may be seen while it is typed. `None`: nobody answers. It
/// blocks.
pub type SshAsk = Arc<dyn Fn(&str, bool) -> Option<Secret<String>> + Send + Sync>;

/// Where the secrets of one server come from. What a person said once is remembered, so that nobody is asked again
/// when a connection is made anew.
#[derive(Default)]
pub(crate) struct Secrets {
    ask: Option<SshAsk>,
    known: Arc<Mutex<HashMap<String, Secret<String>>>>,
    /// Keys that were opened, by what their files hold: to open one takes as long as whoever locked it chose.
    opened: Mutex<HashMap<String, Arc<PrivateKey>>>,
    /// Held while a person is asked: a login that was given up meanwhile still waits for the answer, which the next one takes.
    asking: Arc<Mutex<()>>,
}

impl Secrets {
    pub(crate) fn new(ask: Option<SshAsk>) -> Self {
        Self { ask, ..Self::default() }
    }

    /// A password: of the file, of the environment, or asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn password(
        &self,
        scope: &Scope,
        file: Option<&Path>,
        question: &str,
    ) -> Result<Secret<String>, String> {
        self.find(scope, file, PASSWORD, question).await
    }

    /// Whether there is anything by which a password may be found.
    pub(crate) fn may_have_password(&self, file: Option<&Path>) -> bool {
        file.is_some() || of_environment(PASSWORD).is_some() || self.ask.is_some()
    }

    /// A key's passphrase: of the file, of the environment, or asked for.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn passphrase(
        &self,
        scope: &Scope,
        file: Option<&Path>,
        question: &str,
    ) -> Result<Secret<String>, String> {
        self.find(scope, file, PASSPHRASE, question).await
    }

    async fn find(
        &self,
        scope: &Scope,
        file: Option<&Path>,
        variable: &str,
        question: &str,
    ) -> Result<Secret<String>, String> {
        if let Some(file) = file {
            let path = file.to_owned();
            let read = scope.spawn_blocking("read a password", move || read_password(&path)).await;
            let read = read.unwrap_or_else(|lost| Err(lost.to_string()));
            return read.map_err(|reason| format!("{}: {reason}", file.display()));
        }
        if let Some(value) = of_environment(variable) {
            return Ok(value);
        }
        self.answer(scope, question, false).await.ok_or_else(|| "none given".to_owned())
    }

    /// A person's answer.
    pub(crate) async fn answer(&self, scope: &Scope, question: &str, visible: bool) -> Option<Secret<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned();
        if known.is_some() {
            return known;
        }
        let ask = Arc::clone(self.ask.as_ref()?);
        let (known, asking, question) = (Arc::clone(&self.known), Arc::clone(&self.asking), question.to_owned());
        let person = move || {
            let _turn = asking.lock().unwrap_or_else(PoisonError::into_inner);
            let said = known.lock().unwrap_or_else(PoisonError::into_inner).get(&question).cloned();
            if said.is_some() {
                return said;
            }
            let answer = ask(&question, visible)?;
            known.lock().unwrap_or_else(PoisonError::into_inner).insert(question, answer.clone());
            Some(answer)
        };
        scope.spawn_blocking("ask", person).await.ok()?
    }

    /// A key that was opened before, by what its file holds.
    pub(crate) fn opened(&self, text: &str) -> Option<Arc<PrivateKey>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned()
    }

    /// Keeps a key that was opened, as an agent does.
    pub(crate) fn keep_open(&self, text: String, key: &Arc<PrivateKey>) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(text, Arc::clone(key));
    }

    /// Whether a person said it, who may have mistyped.
    pub(crate) fn was_asked(&self, question: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(question)
    }

    /// Forgets what was said: it was wrong.
    pub(crate) fn forget(&self, question: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(question);
    }
}

/// Starts a child without them.
pub(crate) fn withhold_secrets(command: &mut tokio::process::Command) {
    for name in SECRET_VARIABLES {
        command.env_remove(name);
    }
}

fn of_environment(variable: &str) -> Option<Secret<String>> {
    std::env::var(variable).ok().filter(|value| !value.is_empty()).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_asks_again_while_a_person_thinks_gets_the_same_answer() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (says, person) = mpsc::sync_channel(1);
        let (count, person) = (Arc::clone(&asked), Mutex::new(person));
        let ask: SshAsk = Arc::new(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            person.lock().unwrap().recv().ok().map(Secret::new)
        });
        let (secrets, scope) = (Secrets::new(Some(ask)), Scope::root());
        // One that is given up: the question stays on the terminal.
        {
            let given_up = secrets.answer(&scope, "Password: ", false);
            tokio::pin!(given_up);
            while asked.load(Ordering::SeqCst) == 0 {
                let soon = tokio::time::timeout(std::time::Duration::from_millis(5), &mut given_up).await;
                assert!(soon.is_err());
            }
        }
        let again = secrets.answer(&scope, "Password: ", false);
        says.send("open".to_owned()).unwrap();
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), again).await.unwrap();
        assert_eq!((answer.map(Secret::into_exposed), asked.load(Ordering::SeqCst)), (Some("open".to_owned()), 1));
    }
}
