use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use adit_core::ssh::expand;
use tempfile::TempDir;

use super::*;

/// `ssh_config`s, and the hosts that are asked for. `DIR` is where the files are.
const CASES: &[(&str, &str)] = &[
    ("a", ""),
    ("a", "User me\nUser you\nPort 2222\nPort 1\n"),
    ("web", "Host web\n  HostName %h.Example.COM\n  Port=2200\n  User = deploy\nHost *\n  User other\n"),
    ("WEB", "Host web\n User small\nHost WEB\n User large\nHost *\n HostName real.example\n"),
    ("db.example", "Host *.example !db.example\n User one\nHost db.*\n User two\n  IdentitiesOnly yes\n"),
    ("a", "IdentityFile ~/.ssh/one\nIdentityFile \"~/.ssh/one\"\nIdentityFile /keys/%h-%r\nCertificateFile /c/%n\n"),
    ("a", "IdentityFile none\nIdentitiesOnly yes\nIdentityAgent /run/agent\nHostKeyAlias Alias\n"),
    ("a", "ProxyJump me@one:22,two\nProxyCommand nc %h %p\n"),
    ("a", "ProxyCommand /bin/nc -X 5 \"%h\" %p  # no comment\nProxyJump one\n"),
    ("a", "ProxyJump none\nHost *\n ProxyJump one\n"),
    ("a", "UserKnownHostsFile ~/.kh /etc/kh2\nGlobalKnownHostsFile /g/one /g/two\nStrictHostKeyChecking accept-new\n"),
    ("a", "UserKnownHostsFile none\nStrictHostKeyChecking no\nHashKnownHosts yes\nRevokedHostKeys /etc/r\n"),
    ("a", "ServerAliveInterval 1m30\nServerAliveCountMax 7\nConnectTimeout 10\n"),
    ("a", "serveraliveinterval 5\n\tCONNECTTIMEOUT none\n"),
    ("in", "Include DIR/sub\nUser outer\n"),
    ("no", "Host in\n Include DIR/sub\nHost *\n User outer\n"),
    ("in", "Host *\n Include DIR/d/*.conf\n Port 9\n"),
    ("in", "Include DIR/missing DIR/none*\nPort 9\n"),
    ("in", "Include DIR/d/[b-z]*.conf\nPort 9\n"),
    ("in", "Include DIR/d/[!a]*\nInclude DIR/d/[[:alpha:]].conf\n"),
    ("in", "Include DIR/[de]/[^b].*\nInclude DIR/d/[.]hidden.conf\nPort 9\n"),
    ("in", "Include DIR/d/[a.conf DIR/d/[x]y\nPort 9\n"),
    ("in", "Include DIR/d/[[:nosuch:]].conf DIR/d/[\\a].conf\nPort 9\n"),
    ("m", "Host m\n HostName real.example\nMatch host real.*,!x originalhost m\n Port 1\nMatch all\n User all\n"),
    ("m", "Match !host m\n Port 1\nMatch user ssh-user,LOCAL\n Port 2\nMatch localuser LOCAL\n User found\n"),
    ("m", "Match host other exec \"false\"\n Port 1\nMatch originalhost M\n Port 3\n"),
    (
        "m",
        "Match host=real.*,m originalhost=m\n Port 4\nMatch user = nobody\n Port 5\nMatch localuser=LOCAL\n User b\n",
    ),
    ("q", "User \"a b\"\nIdentityFile 'one two'\nHostKeyAlias a\\ b\n"),
    ("q", "User me # a comment\nHost q # another\n Port 3\n"),
    ("p", "PubkeyAuthentication no\nPasswordAuthentication no\nChallengeResponseAuthentication no\n"),
    ("p", "PreferredAuthentications publickey,password\nPKCS11Provider /lib/p.so\nKbdInteractiveAuthentication no\n"),
    ("f", "IdentitiesOnly Yes\nPubkeyAuthentication NO\nHashKnownHosts True\nStrictHostKeyChecking Yes\n"),
    ("f", "PasswordAuthentication Yes\nKbdInteractiveAuthentication FALSE\nStrictHostKeyChecking Accept-New\n"),
    ("f", "ProxyCommand None\nUserKnownHostsFile None\nGlobalKnownHostsFile NONE\nRevokedHostKeys None\n"),
    ("f", "PKCS11Provider None\nIdentityAgent None\nIdentityFile None\nCertificateFile None\nProxyJump None\n"),
    ("f", "CanonicalizeHostname No\nPasswordAuthentication TRUE\nStrictHostKeyChecking OFF\n"),
    ("j", "User me\nPort 2200\nHostName h.example\nProxyJump ssh://gate:2200,last\n"),
];

fn local_user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("sub", "Host in\n User inner\n Port 7\nHost nobody\n");
    write("d/a.conf", "User from-a\n");
    write("d/b.conf", "User from-b\nHostName b.example\n");
    write("d/.hidden.conf", "HostName hidden.example\n");
    write("d/c.other", "HostName other.example\n");
    directory
}

/// In the form that does not differ by who expands it, and without the keys that OpenSSH tries unnamed and we do not.
fn plain(mut settings: SshSettings, host: &str, home: &str) -> SshSettings {
    let known = settings.clone();
    let user = local_user();
    for files in [&mut settings.user_known_hosts, &mut settings.global_known_hosts, &mut settings.identities] {
        for file in files.iter_mut() {
            *file = expand(file, &known, host, Some(home), &user).to_string_lossy().into_owned();
        }
    }
    settings
        .identities
        .retain(|file| !file.ends_with("_sk") && !file.ends_with("id_xmss") && !file.ends_with("id_dsa"));
    // `ssh -G` always says something; these say what nothing says, too.
    settings.agent = settings.agent.filter(|agent| agent != "SSH_AUTH_SOCK");
    settings
}

#[test]
fn what_we_read_is_what_ssh_prints() {
    let home = std::env::var("HOME").unwrap();
    let reader = Reader { home: Some(home.clone().into()), system: "/nonexistent".into() };
    let (directory, user) = (directory(), local_user());
    let file = directory.path().join("config");
    let mut differ = Vec::new();
    for (host, text) in CASES {
        let text = text.replace("DIR", &directory.path().display().to_string()).replace("LOCAL", &user);
        fs::write(&file, &text).unwrap();
        let printed = Command::new("ssh").arg("-G").arg("-F").arg(&file).args(["--", host]).output();
        let printed = printed.expect("the program `ssh`, to compare with");
        assert!(printed.status.success(), "{text}: {}", String::from_utf8_lossy(&printed.stderr));
        let theirs = SshSettings::parse(&String::from_utf8_lossy(&printed.stdout)).unwrap();
        let ours = reader.all(Some(&file), Asked { host, user: None, port: None, local_user: &user }).unwrap();
        let (ours, theirs) = (plain(ours, host, &home), plain(theirs, host, &home));
        if ours != theirs {
            differ.push(format!("{host}:\n{text}ours   {ours:?}\ntheirs {theirs:?}\n"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn files_of_the_user_come_before_that_of_the_machine_and_include_what_is_beside_them() {
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    let write = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let system = home.path().join("etc/ssh_config");
    fs::create_dir(home.path().join("etc")).unwrap();
    write(&ssh.join("config"), "Include more\nUser me\n");
    write(&ssh.join("more"), "Port 1\n");
    write(&system, "Include of-machine\nUser other\n");
    write(&home.path().join("etc/of-machine"), "Port 2\nHostName machine.example\n");
    let reader = Reader { home: Some(home.path().to_owned()), system };
    let asked = Asked { host: "a", user: None, port: None, local_user: "x" };
    let found = reader.all(None, asked).unwrap();
    assert_eq!((found.user.as_str(), found.port, found.host.as_str()), ("me", 1, "machine.example"));
    let none = reader.all(Some(Path::new("none")), asked).unwrap();
    assert_eq!((none.user.as_str(), none.port), ("x", 22));
    let (reason, _) = reader.all(Some(Path::new("/nonexistent/config")), asked).unwrap_err();
    assert_eq!(reason, "/nonexistent/config: no such file or directory");
}

#[test]
fn s6_a_file_that_others_can_write_is_not_read() {
    let home = tempfile::tempdir().unwrap();
    let ssh = home.path().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    fs::write(ssh.join("config"), "ProxyCommand evil\n").unwrap();
    fs::set_permissions(ssh.join("config"), fs::Permissions::from_mode(0o666)).unwrap();
    let reader = Reader { home: Some(home.path().to_owned()), system: "/nonexistent".into() };
    let asked = Asked { host: "a", user: None, port: None, local_user: "x" };
    let (reason, _) = reader.all(None, asked).unwrap_err();
    assert!(reason.contains(".ssh/config can be changed by others"), "{reason}");
}

#[test]
fn what_is_no_file_is_not_waited_for_and_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = Reader { home: None, system: "/nonexistent".into() };
    let asked = Asked { host: "a", user: None, port: None, local_user: "x" };
    for (path, why) in [
        (pipe.as_path(), "it is a pipe, which can be read only once"),
        (Path::new("/dev/zero"), "it is no file"),
        (directory.path(), "it is a directory"),
    ] {
        let (reason, _) = reader.all(Some(path), asked).unwrap_err();
        assert_eq!(reason, format!("{}: {why}", path.display()));
    }
    assert_eq!(reader.all(Some(Path::new("/dev/null")), asked).unwrap().user, "x");
    let large = directory.path().join("large");
    fs::File::create(&large).unwrap().set_len(regular_file::SIZE_MAX + 1).unwrap();
    let (reason, _) = reader.all(Some(&large), asked).unwrap_err();
    assert!(reason.contains("larger than"), "{reason}");
}
