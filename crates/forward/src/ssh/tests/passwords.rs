//! Logins by password and by questions. An `sshd` can check passwords only as the machine's own, so the server is russh's.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::secret::Secret;
use adit_core::target::{SshOptions, SshServer};
use runtime::Scope;
use russh::server::{self, Auth, Response};
use russh::{MethodKind, MethodSet};

use super::within;
use crate::ssh::ask::SshAsk;
use crate::ssh::bastion::Bastion;
use crate::ssh::error::SshError;
use crate::ssh::servers::SshServers;

const RIGHT: &str = "open sesame";
const CODE: &str = "123456";

/// Lets in by one method.
#[derive(Clone)]
struct Door {
    method: MethodKind,
    /// It asks for a one-time code, too.
    code: bool,
    /// It ends the connection where others refuse.
    cuts: bool,
    /// What is right is half of what lets in: the password is wanted by the other method as well.
    half: bool,
    /// What was said.
    said: Arc<Mutex<Vec<String>>>,
    /// Exchanges that were begun.
    begun: Arc<AtomicUsize>,
}

impl Door {
    fn new(method: MethodKind) -> Self {
        Self { method, code: false, cuts: false, half: false, said: Arc::default(), begun: Arc::default() }
    }

    fn answer(&self, said: &[String]) -> Result<Auth, russh::Error> {
        self.said.lock().unwrap().extend_from_slice(said);
        let wanted: &[&str] = if self.code { &[RIGHT, CODE] } else { &[RIGHT] };
        match said == wanted {
            true => Ok(Auth::Accept),
            false if self.cuts => Err(russh::Error::Disconnect),
            false => Ok(self.closed()),
        }
    }

    fn closed(&self) -> Auth {
        let methods = MethodSet::from(&[self.method][..]);
        Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
    }
}

impl server::Handler for Door {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        Ok(self.closed())
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        self.answer(&[password.to_owned()])
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(response) = response else {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let mut prompts: Vec<(Cow<'static, str>, bool)> = vec![("Password: ".into(), false)];
            if self.code {
                prompts.push(("Code: ".into(), true));
            }
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts: prompts.into() });
        };
        let said: Vec<String> = response.map(|said| String::from_utf8_lossy(&said).into_owned()).collect();
        match self.answer(&said)? {
            Auth::Accept if self.half => {
                let methods = MethodSet::from(&[MethodKind::Password][..]);
                Ok(Auth::Reject { proceed_with_methods: Some(methods), partial_success: true })
            }
            answer => Ok(answer),
        }
    }
}

struct House {
    dir: tempfile::TempDir,
    scope: Scope,
    servers: Arc<SshServers>,
    door: Door,
    port: u16,
    /// What a person was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl House {
    /// With a person who answers so, one after the other.
    async fn new(door: Door, answers: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host");
        let mut command = std::process::Command::new("ssh-keygen");
        assert!(command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status().unwrap().success());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let public = std::fs::read_to_string(dir.path().join("host.pub")).unwrap();
        std::fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {public}")).unwrap();
        std::fs::write(dir.path().join("config"), "Host *\n  IdentityAgent none\n").unwrap();
        let config = Arc::new(server::Config {
            keys: vec![russh::keys::load_secret_key(&path, None).unwrap()],
            auth_rejection_time: Duration::from_millis(1),
            auth_rejection_time_initial: Some(Duration::ZERO),
            methods: MethodSet::from(&[door.method][..]),
            ..server::Config::default()
        });
        let scope = Scope::root();
        let (visitors, house) = (scope.clone(), door.clone());
        scope.spawn("a house", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (config, door) = (Arc::clone(&config), house.clone());
                visitors.spawn("a visitor", async move {
                    if let Ok(visit) = server::run_stream(config, stream, door).await {
                        let _ = visit.await;
                    }
                });
            }
        });
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (questions, answers) = (Arc::clone(&asked), answers.iter().map(|&answer| answer.to_owned()));
        let answers: Mutex<VecDeque<String>> = Mutex::new(answers.collect());
        let ask: SshAsk = Arc::new(move |question, _| {
            questions.lock().unwrap().push(question.to_owned());
            answers.lock().unwrap().pop_front().map(Secret::new)
        });
        Self { dir, scope, servers: SshServers::new(Some(ask)), door, port, asked }
    }

    fn bastion(&self, password: Option<&str>) -> Arc<Bastion> {
        use std::os::unix::fs::PermissionsExt as _;
        let at = |name: &str| self.dir.path().join(name);
        let password_file = password.map(|text| {
            std::fs::write(at("password"), text).unwrap();
            std::fs::set_permissions(at("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
            at("password")
        });
        let options = SshOptions {
            key: Some(at("none")),
            known_hosts: Some(at("known_hosts")),
            config: Some(at("config")),
            password_file,
            ..SshOptions::default()
        };
        let mut server = SshServer::parse("me@127.0.0.1").unwrap().with(options);
        server.port = NonZeroU16::new(self.port);
        self.servers.bastion(&server)
    }

    async fn login(&self, bastion: &Arc<Bastion>) -> Result<(), SshError> {
        within(bastion.way(&self.scope)).await.map(drop)
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.door.said.lock().unwrap())
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.scope.abort();
    }
}

const BOTH: [MethodKind; 2] = [MethodKind::Password, MethodKind::KeyboardInteractive];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_of_a_file_logs_in() {
    for method in BOTH {
        let house = House::new(Door::new(method), &[]).await;
        house.login(&house.bastion(Some("open sesame\nnot this\n"))).await.unwrap();
        assert_eq!((house.said(), house.asked()), (vec![RIGHT.to_owned()], 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_a_person_mistyped_is_asked_for_again_and_the_right_one_is_kept() {
    for method in BOTH {
        let house = House::new(Door::new(method), &["opne", RIGHT]).await;
        let bastion = house.bastion(None);
        house.login(&bastion).await.unwrap();
        assert_eq!((house.said(), house.asked()), (vec!["opne".to_owned(), RIGHT.to_owned()], 2), "{method:?}");
        // A later login asks nobody.
        bastion.wake();
        house.login(&bastion).await.unwrap();
        assert_eq!((house.said(), house.asked()), (vec![RIGHT.to_owned()], 2), "{method:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_half_of_what_lets_in_is_kept() {
    let house =
        House::new(Door { half: true, ..Door::new(MethodKind::KeyboardInteractive) }, &[RIGHT, "asked again"]).await;
    let bastion = house.bastion(None);
    house.login(&bastion).await.unwrap();
    assert_eq!((house.said(), house.asked()), (vec![RIGHT.to_owned(), RIGHT.to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_tried_three_times_at_most_and_not_kept() {
    for method in BOTH {
        let house = House::new(Door::new(method), &["a", "b", "c", RIGHT]).await;
        let bastion = house.bastion(None);
        let error = house.login(&bastion).await.unwrap_err();
        assert!(matches!(error, SshError::Refused { .. }), "{error}");
        assert_eq!(house.said(), ["a", "b", "c"]);
        bastion.wake();
        house.login(&bastion).await.unwrap();
        assert_eq!(house.asked(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_not_kept_when_the_server_ends_the_connection_for_it() {
    for method in BOTH {
        let house = House::new(Door { cuts: true, ..Door::new(method) }, &["opne", RIGHT]).await;
        let bastion = house.bastion(None);
        let error = house.login(&bastion).await.unwrap_err();
        assert!(matches!(error, SshError::Refused { .. }), "{error}");
        bastion.wake();
        house.login(&bastion).await.unwrap();
        assert_eq!((house.said(), house.asked()), (vec!["opne".to_owned(), RIGHT.to_owned()], 2), "{method:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_a_file_is_tried_once() {
    for method in BOTH {
        let house = House::new(Door::new(method), &[]).await;
        let error = house.login(&house.bastion(Some("hunter2"))).await.unwrap_err();
        assert!(matches!(error, SshError::Refused { .. }) && !error.to_string().contains("hunter2"), "{error}");
        assert_eq!(house.said(), ["hunter2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_password_none_is_sent() {
    let mut house = House::new(Door::new(MethodKind::KeyboardInteractive), &[]).await;
    let begun = |house: &House| house.door.begun.load(Ordering::SeqCst);
    // A person who does not answer.
    let error = house.login(&house.bastion(None)).await.unwrap_err();
    assert!(error.to_string().contains("not keyboard-interactive (none given)"), "{error}");
    assert_eq!((house.said().len(), begun(&house)), (0, 1));
    // Nobody who could.
    house.servers = SshServers::new(None);
    let error = house.login(&house.bastion(None)).await.unwrap_err();
    assert!(error.to_string().contains("not keyboard-interactive (none given)"), "{error}");
    assert_eq!((house.said().len(), begun(&house)), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_time_code_is_asked_for_each_time() {
    let house = House::new(Door { code: true, ..Door::new(MethodKind::KeyboardInteractive) }, &[CODE, CODE]).await;
    let bastion = house.bastion(Some(RIGHT));
    house.login(&bastion).await.unwrap();
    bastion.wake();
    house.login(&bastion).await.unwrap();
    assert_eq!((house.said().len(), house.asked()), (4, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_why_a_file_is_not_used_is_said_whatever_the_server_asks_for() {
    use std::os::unix::fs::PermissionsExt as _;
    for method in BOTH {
        let house = House::new(Door::new(method), &[]).await;
        let bastion = house.bastion(Some(RIGHT));
        let file = house.dir.path().join("password");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = house.login(&bastion).await.unwrap_err();
        assert!(error.to_string().contains("password: others may read it (mode 644)"), "{error}");
        assert!(!house.said().contains(&RIGHT.to_owned()));
    }
}
