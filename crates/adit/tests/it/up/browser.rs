//! A real browser: Chromium, with a certificate store in a home of its own, against pages of the gateway and behind it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testkit::process;
use testkit::servers::program;

use super::support::{Bed, gateway, web};
use crate::support::{DEADLINE, adit};

/// For a browser's start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the service behind the route says at `/`.
const PAGE: &str = "Hello, world!";

/// What the browser shows of a page: its text, or that of its own warning.
fn shown(browser: &Path, home: &Path, url: &str) -> String {
    shown_with(browser, home, &[], url)
}

fn shown_with(browser: &Path, home: &Path, more: &[&str], url: &str) -> String {
    let profile = tempfile::tempdir_in(home).expect("a directory");
    let mut command = Command::new(browser);
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME").current_dir(home);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]);
    command.args(["--disable-component-update", "--disable-dev-shm-usage", "--timeout=20000", "--dump-dom"]);
    command.args(more).arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    let (_, said) = process::run(&mut command, b"", PATIENCE).expect("the browser ends");
    said.stdout().to_string()
}

/// `adit trust`, which sees no store but those of this home.
fn trust(home: &Path, more: &[&str]) {
    let mut command = adit(home);
    command.env_remove("SUDO_USER").args(["trust", "--root"]).arg(home.join("root")).args(more);
    let (status, said) = process::run(&mut command, b"", DEADLINE).expect("adit ends");
    assert!(status.success() && said.stdout().contains("chromium"), "{}", said.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_page_with_a_green_lock_after_adit_trust_and_no_more_after_its_removal() {
    let (browser, certutil) = (program("chromium"), program("certutil"));
    let bed = Bed::start().await;
    let home = bed.home.path();
    let store = home.join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("the file system works");
    let mut make = Command::new(certutil);
    make.args(["-N", "--empty-password", "-d"]).arg(format!("sql:{}", store.display()));
    assert!(process::run(&mut make, b"", DEADLINE).expect("certutil ends").0.success());
    let up = bed.up(&gateway(&["tls: local"], &[&web()])).await;
    let url = format!("https://{}/", up.host("web.localhost"));
    let before = shown(&browser, home, &url);
    assert!(!before.contains(PAGE), "nobody has trusted it yet: {before}");
    trust(home, &[]);
    let page = shown(&browser, home, &url);
    assert!(page.contains(PAGE), "without any warning: {page}");
    let index = shown(&browser, home, &format!("https://{}/", up.host("localhost")));
    assert!(index.contains("adit gateway"), "{index}");
    trust(home, &["--remove"]);
    let after = shown(&browser, home, &url);
    assert!(!after.contains(PAGE), "{after}");
}

/// A service with TLS that is in no cluster.
const GONE: &str = "gone.localhost: { to: \"k8s://fake/default/service/gone:443\", scheme: https }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_index_and_error_pages_over_http_and_over_tls() {
    let browser = program("chromium");
    let bed = Bed::start().await;
    let home = bed.home.path();
    let up = bed.up(&gateway(&[], &[&web(), GONE])).await;
    for (scheme, more) in [("http", [].as_slice()), ("https", ["--ignore-certificate-errors"].as_slice())] {
        let page = |host: &str| shown_with(&browser, home, more, &format!("{scheme}://{}/", up.host(host)));
        let index = page("localhost");
        assert!(index.contains("adit gateway") && index.contains(&up.host("web.localhost")), "{scheme}: {index}");
        let illegal = page("web_80.svc.default.ns.fake.cx.k8s.localhost");
        assert!(illegal.contains("cannot stand in a host name"), "{scheme}: {illegal}");
        let unknown = page("wbe.localhost");
        assert!(unknown.contains("404") && unknown.contains("web.localhost"), "{scheme}: a near match: {unknown}");
        let gone = page("gone.localhost");
        assert!(gone.contains("502") && gone.contains("not found"), "{scheme}: the reason: {gone}");
    }
    let untrusted = shown(&browser, home, &format!("https://{}/", up.host("wbe.localhost")));
    assert!(!untrusted.contains("web.localhost"), "its certificate is of nobody's trust: {untrusted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_of_a_page_echoes_through_the_gateway() {
    let browser = program("chromium");
    let bed = Bed::start().await;
    let up = bed.up(&gateway(&["tls: local"], &[&web()])).await;
    for (scheme, more) in [("http", [].as_slice()), ("https", ["--ignore-certificate-errors"].as_slice())] {
        let url = format!("{scheme}://{}/ws-page", up.host("web.localhost"));
        let page = shown_with(&browser, bed.home.path(), more, &url);
        assert!(page.contains("echo: from the page"), "{scheme}: {page}");
    }
}
