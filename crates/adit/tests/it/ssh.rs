//! `adit ssh` as it is typed, also on a machine without an `ssh` program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use testkit::origin::TcpOrigin;
use testkit::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{DEADLINE, adit, eventually};

/// A home whose `~/.ssh/config` calls the server `bastion`, by a file that it includes.
fn home_for(sshd: &Sshd) -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let own = home.path().join(".ssh");
    std::fs::create_dir(&own).expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(own.join(name), text).expect("it can be written");
        std::fs::set_permissions(own.join(name), std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    };
    let bastion = format!(
        "Host bast* !bastille\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {}\n  UserKnownHostsFile {}\n",
        sshd.addr().ip(),
        sshd.addr().port(),
        sshd.user(),
        sshd.key().display(),
        sshd.known_hosts().display(),
    );
    write("work.conf", &bastion);
    write("config", "Include *.conf\nMatch originalhost odd exec \"true\"\n  User odd\nHost *\n  IdentityAgent none\n");
    home
}

/// `adit ssh test`, where no program is found.
fn test_alone(home: &Path, arguments: &[&str]) -> Output {
    let mut command = adit(home);
    command.env("PATH", home).env_remove("SSH_AUTH_SOCK").args(["ssh", "test"]).args(arguments);
    command.output().expect("adit runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_program_ssh_its_files_are_read_all_the_same() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = home_for(&sshd);
    let output = test_alone(home.path(), &[&format!("ssh://bastion/{}", origin.addr())]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.starts_with("ok  there is no `ssh` on PATH: the settings are read from its files by adit\n"),
        "{said}"
    );
    assert!(said.contains(&format!("ok  bastion is {}@{}\n", sshd.user(), sshd.addr())), "{said}");
    assert!(said.contains(&format!("ok  bastion reaches {}\n", origin.addr())), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_the_program_ssh_says_so() {
    let sshd = Sshd::start(&[]).await;
    let home = home_for(&sshd);
    let output = test_alone(home.path(), &["odd"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(".ssh/config:2: `Match originalhost odd exec true` needs the program `ssh`"), "{said}");
    assert!(said.contains("hint: install OpenSSH's client"), "{said}");
    let output = test_alone(home.path(), &["--openssh", "bastion"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("backend: openssh needs the program `ssh`, which is not found on PATH"), "{said}");
}

#[test]
fn a_short_name_that_nobody_knows_leads_to_the_file_of_its_hosts() {
    let home = tempfile::tempdir().unwrap();
    let output = test_alone(home.path(), &["no-such-bastion"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("no Host no-such-bastion in ~/.ssh/config"), "{said}");
}

/// As many people have it: words for OpenSSH alone, of other systems, of other versions, and two files of host keys.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_companys_configuration_has_besides_stops_nothing() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = home_for(&sshd);
    let own = |name: &str| home.path().join(".ssh").join(name);
    let key = sshd.make_key("locked", "ed25519", "open sesame");
    sshd.authorize(&key);
    let lines = format!(
        "Host bastion\n  HostName {}\n  Port {}\n  IdentityFile {}\n  UserKnownHostsFile {} {}\nHost *\n  IgnoreUnknown \
         UseKeychain\n  UseKeychain yes\n  AddKeysToAgent yes\n  IdentityAgent {}\n  ControlMaster auto\n  ControlPath \
         ~/.ssh/%r@%h:%p\n  ControlPersist 10m\n  HashKnownHosts yes\n  SendEnv LANG LC_*\n  ForwardAgent yes\n  \
         IdentityFile ~/.ssh/company\n  User {}\n",
        sshd.addr().ip(),
        sshd.addr().port(),
        key.display(),
        own("none").display(),
        sshd.known_hosts().display(),
        own("no-agent.sock").display(),
        sshd.user(),
    );
    std::fs::write(own("config"), lines).unwrap();
    let mut command = adit(home.path());
    command.env("PATH", home.path()).env_remove("SSH_AUTH_SOCK").env("ADIT_SSH_PASSPHRASE", "open sesame");
    let output = command.args(["ssh", "test", &format!("ssh://bastion/{}", origin.addr())]).output().unwrap();
    let (said, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{faults}");
    assert!(said.contains(&format!("by key {}\n", key.display())), "{said}");
    assert!(said.contains(&format!("ok  bastion reaches {}\n", origin.addr())), "{said}");
    assert_eq!(faults, "", "nothing else is said");
    // A key that is named by `~` where no shell resolves it.
    let output = test_alone(home.path(), &["--key=~/.ssh/nowhere", "bastion"]);
    let faults = String::from_utf8_lossy(&output.stderr);
    assert!(faults.contains(&format!("not {} (no such file)", own("nowhere").display())), "{faults}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_the_one_that_ssh_takes_for_it_and_the_environments_without_ssh() {
    let sshd = Sshd::start(&[]).await;
    let home = home_for(&sshd);
    let config = home.path().join("other");
    let lines = format!(
        "Host bastion\n  HostName {}\n  Port {}\n  IdentityFile ~/.ssh/no-such-key\n  IdentitiesOnly yes\n  IdentityAgent \
         none\n  UserKnownHostsFile ~/no-such-file {}\n",
        sshd.addr().ip(),
        sshd.addr().port(),
        sshd.known_hosts().display(),
    );
    std::fs::write(&config, lines).unwrap();
    let shell = std::process::Command::new("sh").args(["-c", "eval echo ~$(id -un)"]).output().unwrap();
    let of_user = String::from_utf8(shell.stdout).unwrap().trim().to_owned();
    let config = config.display().to_string();
    let arguments = ["--ssh-config", &config, "bastion"];
    let mut command = adit(home.path());
    let output = command.env_remove("SSH_AUTH_SOCK").args(["ssh", "test"]).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("not {of_user}/.ssh/no-such-key (no such file)")), "{said}");
    let output = test_alone(home.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("not {}/.ssh/no-such-key (no such file)", home.path().display())), "{said}");
}

/// Mistyped at first; nothing of it is shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_at_a_terminal_is_asked_for_the_passphrase_of_a_key() {
    let sshd = Sshd::start(&[]).await;
    let home = home_for(&sshd);
    let key = sshd.make_key("locked", "ed25519", "open sesame");
    sshd.authorize(&key);
    let mut command = adit(home.path());
    command
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env_remove("SSH_AUTH_SOCK")
        .env_remove("ADIT_SSH_PASSPHRASE");
    let config = home.path().join(".ssh/work.conf").display().to_string();
    let key = key.display().to_string();
    command.args(["ssh", "test", "--ssh-config", &config, "--key", &key, "bastion"]);
    let terminal = testkit::terminal::Terminal::open(200, 24).unwrap();
    let mut program = terminal.control(&[], &command).unwrap();
    let asked = |times: usize| {
        let terminal = &terminal;
        move || async move { (terminal.screen().text().matches("Passphrase of ").count() == times).then_some(()) }
    };
    eventually(DEADLINE, "it asks", asked(1)).await;
    terminal.type_text("opne sesame\n").unwrap();
    eventually(DEADLINE, "it asks again", asked(2)).await;
    terminal.type_text("open sesame\n").unwrap();
    let program = std::sync::Mutex::new(&mut program);
    let ended = || async { program.lock().unwrap().ended().unwrap() };
    let status = eventually(DEADLINE, "it ends", ended).await;
    let shown = terminal.screen().text();
    assert!(status.success() && shown.contains("logged in as "), "{shown}");
    assert!(!shown.contains("sesame"), "{shown}");
}

/// `adit ssh trust`, with nobody to be asked; what it said.
fn trust(home: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = adit(home);
    command.env_remove("SSH_AUTH_SOCK").env("PATH", home).args(["ssh", "trust"]).args(arguments);
    let output = command.output().expect("adit runs");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_is_trusted_by_its_fingerprint_once() {
    let sshd = Sshd::start(&[]).await;
    let home = home_for(&sshd);
    let key = sshd.host_key();
    std::fs::write(sshd.known_hosts(), "").unwrap();
    let (done, said) = trust(home.path(), &["bastion"]);
    assert!(!done && said.contains("the host key of bastion is not known"), "{said}");
    let at = said.find("SHA256:").expect("its fingerprint");
    let fingerprint: String = said[at..].chars().take_while(|letter| !letter.is_whitespace()).collect();
    let (done, said) = trust(home.path(), &["--fingerprint", "SHA256:other", "bastion"]);
    assert!(!done && said.contains("not SHA256:other"), "{said}");
    assert_eq!(std::fs::read_to_string(sshd.known_hosts()).unwrap(), "", "nothing is written so far");
    let (done, said) = trust(home.path(), &["--fingerprint", &fingerprint, "bastion"]);
    assert!(done && said.contains("is the key of bastion from now on"), "{said}");
    let written = std::fs::read_to_string(sshd.known_hosts()).unwrap();
    assert!(written.contains(&key) && written.lines().count() == 1, "{written}");
    let (done, said) = trust(home.path(), &["--yes", "bastion"]);
    assert!(done && said.contains("is known"), "{said}");
    assert_eq!(std::fs::read_to_string(sshd.known_hosts()).unwrap(), written);
    // Another key is nothing that is accepted in passing.
    sshd.change_host_key().await;
    let (done, said) = trust(home.path(), &["--yes", "bastion"]);
    assert!(!done && said.contains("HAS CHANGED"), "{said}");
}

/// Ends a program when the test does.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_localport_serves_connections_once_it_is_imported() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = home_for(&sshd);
    let (port, at) = (testkit::process::free_port().unwrap(), |name: &str| home.path().join(name));
    let theirs = format!(
        "services:\n  - name: db\n    technology: ssh\n    local_port: {port}\n    remote_port: {}\n    connection: {{ \
         host: bastion, remote_host: 127.0.0.1 }}\n",
        origin.addr().port()
    );
    std::fs::write(at("localport.yaml"), theirs).unwrap();
    let mut import = adit(home.path());
    let imported = import.args(["config", "import", "localport", "localport.yaml"]).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    std::fs::write(at("adit.yaml"), imported.stdout).unwrap();
    let mut up = adit(home.path());
    let said = std::fs::File::create(at("said")).unwrap();
    up.env("PATH", home.path()).env_remove("SSH_AUTH_SOCK").arg("up").stdout(said.try_clone().unwrap()).stderr(said);
    let _up = Ends(up.spawn().unwrap());
    let serves = || async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"echo\nhello").await.ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.ok()?;
        (&back == b"hello").then_some(())
    };
    let what = format!("a connection: {}", std::fs::read_to_string(at("adit.yaml")).unwrap());
    eventually(DEADLINE, &what, serves).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_no_secret_is_in_a_trace() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = home_for(&sshd);
    let at = |name: &str| home.path().join(name);
    let key = sshd.make_key("locked", "ed25519", "pass-sesame");
    sshd.authorize(&key);
    for (name, secret) in [("passphrase", "pass-sesame\n"), ("password", "probe-sesame\n")] {
        std::fs::write(at(name), secret).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    // The service is none of Redis, and sends back what it is told: the password, too.
    let file = format!(
        "version: 1\nforwards:\n  db:\n    start: always\n    listen: 0\n    to:\n      ssh: {{ server: bastion, host: 127.0.0.1, \
         port: {}, key: {}, passphrase_file: passphrase }}\n    health: {{ type: redis, password_file: password, interval: 100ms, \
         fall: 1 }}\n",
        origin.addr().port(),
        key.display(),
    );
    std::fs::write(at("adit.yaml"), file).unwrap();
    let mut up = adit(home.path());
    up.env("PATH", home.path()).env_remove("SSH_AUTH_SOCK");
    up.env("ADIT_LOG", "trace").env("ADIT_SSH_PASSWORD", "word-sesame");
    let said = std::fs::File::create(at("said")).unwrap();
    up.arg("up").stdout(said.try_clone().unwrap()).stderr(said);
    let _up = Ends(up.spawn().unwrap());
    let said = || std::fs::read_to_string(at("said")).unwrap();
    let traced = || async { (said().contains("logged in") && said().contains("a probe failed")).then_some(()) };
    eventually(DEADLINE, "a login and a probe", traced).await;
    assert!(origin.connections() > 0 && !said().contains("sesame"), "{}", said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_of_the_file_is_tested_and_trusted_by_its_name() {
    let (sshd, origin) = (Sshd::start(&[]).await, TcpOrigin::start().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let known = home.path().join("known");
    let file = format!(
        "forwards:\n  db:\n    to: {{ ssh: {{ server: \"{}@{}\", host: 127.0.0.1, port: {}, key: \"{}\", known_hosts: \"{}\" }} }}\n  \
         other: {{ to: \"tcp://${{UNSET}}h:1\" }}\n",
        sshd.user(),
        sshd.addr(),
        origin.addr().port(),
        sshd.key().display(),
        known.display(),
    );
    std::fs::write(home.path().join("adit.yaml"), file).unwrap();
    assert!(!test_alone(home.path(), &["db"]).status.success(), "its key is not known yet");
    let (done, said) = trust(home.path(), &["--yes", "db"]);
    assert!(done, "{said}");
    assert!(std::fs::read_to_string(&known).unwrap().contains("ssh-"), "in the file that the forward names");
    let output = test_alone(home.path(), &["db"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(&format!("reaches {}\n", origin.addr())), "{said}");
}

#[test]
fn a_forward_of_a_file_with_mistakes_is_not_taken_for_a_host_of_its_name() {
    let home = tempfile::tempdir().unwrap();
    let file = "forwards:\n  pg: { to: \"ssh://127.0.0.1:1/127.0.0.1:1\" }\n  web: { to: 3000, listne: 1 }\n";
    std::fs::write(home.path().join("adit.yaml"), file).unwrap();
    let output = test_alone(home.path(), &["pg"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("listne") && said.contains("the file speaks of pg"), "{said}");
    let output = test_alone(home.path(), &["127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("connection refused") && !said.contains("listne"), "another host is one: {said}");
}
