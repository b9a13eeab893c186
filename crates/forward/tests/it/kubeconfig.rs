//! Kubeconfig files that are missing, broken, or not what they should be.

use adit_core::diagnose::Fault;
use forward::{Clusters, Forward, ForwardOptions, KubeSettings};
use testkit::cluster::{AuthMode, ClusterOptions};

use crate::support::{Bed, Refusal, call, ready, refusal, settings};

impl Bed {
    /// A forward with another kubeconfig.
    fn by(&self, settings: KubeSettings, target: &str) -> Forward {
        let target = adit_core::target::Target::parse(target).unwrap();
        Forward::new(&self.scope, &Clusters::new(settings), "web", target, ForwardOptions::default())
    }

    /// A file beside the kubeconfig.
    fn file(&self, name: &str, text: &str) -> KubeSettings {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        settings(&path)
    }

    /// What a user reads who uses this text as a kubeconfig.
    async fn refusal_of(&self, text: &str) -> Refusal {
        refusal(&self.by(self.file("bad", text), "k8s:///default/service/web:80")).await
    }
}

/// Replaces the value of each line with this key.
fn set(config: &str, key: &str, line: &str) -> String {
    let lines = config.lines().map(|old| {
        let bare = old.trim_start();
        if bare.starts_with(&format!("{key}:")) { old.replace(bare, line) } else { old.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let bed = Bed::web().await;
    let missing = bed.dir.path().join("nowhere");
    let said = refusal(&bed.by(settings(&missing), "k8s:///default/service/web:80")).await;
    said.has(&["there is no kubeconfig", "nowhere"], &["kubernetes.kubeconfig", "$KUBECONFIG"]);
    assert_eq!(said.fault, Fault::Config);
    // A flag is named to those only who have it.
    let flags = |has_flags| KubeSettings { has_flags, ..settings(&missing) };
    for (has_flags, settings) in [(false, flags(false)), (true, flags(true))] {
        let said = refusal(&bed.by(settings, "k8s:///default/service/web:80")).await;
        assert_eq!(said.hint.contains("--kubeconfig"), has_flags);
    }
    let list = format!("{0}:{0}2", missing.display());
    let all = KubeSettings { kubeconfig: Some(list), ..KubeSettings::default() };
    refusal(&bed.by(all, "k8s:///default/service/web:80")).await.has(&["nowhere", "nowhere2"], &[]);
}

#[tokio::test]
async fn a_missing_file_of_a_list_is_passed_over() {
    let bed = Bed::web().await;
    let list = format!("{}:{}", bed.dir.path().join("nowhere").display(), bed.dir.path().join("config").display());
    let all = KubeSettings { kubeconfig: Some(list), ..KubeSettings::default() };
    let forward = bed.by(all, "k8s:///default/service/web:80");
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn a_directory_or_rubbish_in_place_of_a_file_is_an_error_with_its_path() {
    let bed = Bed::web().await;
    let said = refusal(&bed.by(settings(bed.dir.path()), "k8s:///default/service/web:80")).await;
    said.has(&[&bed.dir.path().display().to_string()], &[]);
    for text in ["\u{0}\u{1}\u{2}", "- a\n- b\n", "clusters: 7\n", "apiVersion: v1\nclusters:\n- {name: [}\n", "{"] {
        let said = bed.refusal_of(text).await;
        assert!(said.text.contains("bad"), "{}", said.text);
        assert_eq!(said.fault, Fault::Config, "{}", said.text);
        assert!(!said.hint.is_empty());
    }
}

#[tokio::test]
async fn an_empty_file_has_no_current_context() {
    let bed = Bed::web().await;
    bed.refusal_of("apiVersion: v1\nkind: Config\n").await.has(&["no current context"], &["no contexts"]);
    bed.refusal_of("").await.has(&["bad"], &[]);
}

#[tokio::test]
async fn an_unknown_context_names_the_nearest() {
    let bed = Bed::web().await;
    let said = refusal(&bed.by(bed.settings.clone(), "k8s://fak/default/service/web:80")).await;
    said.has(&["`fak`", "has: fake"], &["did you mean `fake`?"]);
    let text = set(&bed.cluster.kubeconfig(), "current-context", "current-context: other");
    bed.refusal_of(&text).await.has(&["`other`"], &[]);
}

#[tokio::test]
async fn a_context_without_its_cluster_or_user_says_which_is_missing() {
    let bed = Bed::web().await;
    let good = bed.cluster.kubeconfig();
    let said = bed.refusal_of(&good.replace("    cluster: \"fake\"", "    cluster: lost")).await;
    said.has(&["the cluster `lost`", "context `fake`"], &["cluster"]);
    let said = bed.refusal_of(&good.replace("    user: \"fake\"", "    user: lost")).await;
    said.has(&["the user `lost`", "context `fake`"], &["user"]);
    let said = bed.refusal_of(&set(&good, "server", "server: \"\"")).await;
    said.has(&["server"], &[]);
}

#[tokio::test]
async fn a_server_that_is_no_address_is_an_error_and_no_panic() {
    let bed = Bed::web().await;
    let good = bed.cluster.kubeconfig();
    for server in [
        "\"http s://x\"",
        "\"https://\"",
        "\"://\"",
        "\"ftp://127.0.0.1:1\"",
        "\"https://127.0.0.1:99999\"",
        "\"/path\"",
    ] {
        let said = bed.refusal_of(&set(&good, "server", &format!("server: {server}"))).await;
        assert_eq!(said.fault, Fault::Config, "{server}: {}", said.text);
    }
}

#[tokio::test]
async fn certificates_that_are_missing_or_rubbish_are_told_apart() {
    let bed = Bed::web_with(ClusterOptions { auth: AuthMode::ClientCert, ..ClusterOptions::default() }).await;
    let good = bed.cluster.kubeconfig();
    std::fs::write(bed.dir.path().join("rubbish.pem"), "no certificate").unwrap();
    for (key, file, what) in [
        ("certificate-authority-data", "certificate-authority: gone.pem", "certificate authority"),
        ("certificate-authority-data", "certificate-authority: rubbish.pem", "certificate authority"),
        ("certificate-authority-data", "certificate-authority-data: '%%%'", "certificate authority"),
        ("client-certificate-data", "client-certificate: gone.pem", "client certificate"),
        ("client-key-data", "client-key: gone.pem", "client key"),
    ] {
        let said = bed.refusal_of(&set(&good, key, file)).await;
        assert!(said.text.contains(what), "{file}: {}", said.text);
        assert_eq!(said.fault, Fault::Config, "{file}: {}", said.text);
    }
    for (key, file) in [
        ("client-certificate-data", "client-certificate: rubbish.pem"),
        ("client-key-data", "client-key: rubbish.pem"),
        ("client-key-data", "client-key-data: Z2FyYmFnZQ=="),
    ] {
        let said = bed.refusal_of(&set(&good, key, file)).await;
        assert_eq!(said.fault, Fault::Config, "{file}: {}", said.text);
        said.has(&["fake"], &["kubeconfig"]);
    }
}

#[tokio::test]
async fn another_clusters_authority_is_told_as_a_certificate_problem() {
    let bed = Bed::web().await;
    let stranger = Bed::new().await;
    let theirs = stranger.cluster.kubeconfig();
    let theirs = theirs.lines().find(|line| line.contains("certificate-authority-data")).unwrap().trim();
    let text = set(&bed.cluster.kubeconfig(), "certificate-authority-data", theirs);
    let options = crate::support::patience(std::time::Duration::from_secs(2));
    let target = adit_core::target::Target::parse("k8s:///default/service/web:80").unwrap();
    let forward = Forward::new(&bed.scope, &Clusters::new(bed.file("other", &text)), "web", target, options);
    refusal(&forward).await.has(&["certificate"], &[]);
}

#[tokio::test]
async fn client_certificates_and_passwords_open_the_door() {
    let basic = AuthMode::Basic { username: "me".into(), password: "p: \"w\"".into() };
    for auth in [AuthMode::ClientCert, basic] {
        let bed = Bed::web_with(ClusterOptions { auth, ..ClusterOptions::default() }).await;
        call(&bed.ready().await).await;
    }
}

#[tokio::test]
async fn paths_are_relative_to_the_file_they_are_written_in() {
    let bed = Bed::web_with(ClusterOptions { auth: AuthMode::Token("t".into()), ..ClusterOptions::default() }).await;
    let below = bed.dir.path().join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("ca.pem"), bed.cluster.ca_pem()).unwrap();
    std::fs::write(below.join("token"), "t\n").unwrap();
    let text = set(&bed.cluster.kubeconfig(), "certificate-authority-data", "certificate-authority: ca.pem");
    let text = set(&text, "token", "tokenFile: token");
    let forward = bed.by(bed.file("below/config", &text), "k8s:///default/service/web:80");
    ready(&forward).await;
    call(&forward).await;
}

#[tokio::test]
async fn of_two_files_with_the_same_context_the_first_wins() {
    let (first, second) = (Bed::web().await, Bed::web().await);
    let list = |a: &Bed, b: &Bed| {
        let path = |bed: &Bed| bed.dir.path().join("config").display().to_string();
        KubeSettings { kubeconfig: Some(format!("{}:{}", path(a), path(b))), ..KubeSettings::default() }
    };
    for (a, b) in [(&first, &second), (&second, &first)] {
        let before = b.origin.connections();
        let forward = a.by(list(a, b), "k8s://fake/default/service/web:80");
        ready(&forward).await;
        call(&forward).await;
        assert_eq!(b.origin.connections(), before, "the second file's cluster was used");
    }
}

#[tokio::test]
async fn contexts_of_a_second_file_are_found_with_its_own_cluster_and_user() {
    let (first, second) = (Bed::web().await, Bed::web().await);
    let path = second.dir.path().join("second");
    std::fs::write(&path, second.cluster.kubeconfig_named("two", "two", "two")).unwrap();
    let list = format!("{}:{}", first.dir.path().join("config").display(), path.display());
    let settings = KubeSettings { kubeconfig: Some(list), ..KubeSettings::default() };
    let forward = first.by(settings, "k8s://two/default/service/web:80");
    assert_eq!(ready(&forward).await.context.as_deref(), Some("two"));
    call(&forward).await;
    assert_eq!((first.origin.connections(), second.origin.connections()), (0, 1));
}

#[tokio::test]
async fn the_contexts_namespace_is_used_when_none_is_named() {
    let bed = Bed::new().await;
    bed.cluster.apply(serde_json::json!({ "kind": "Namespace", "metadata": { "name": "shop" } }));
    let pod = testkit::cluster::PodSpec::new("shop", "till").backend(80, bed.origin.addr());
    bed.cluster.add_pod(pod);
    let text = set(&bed.cluster.kubeconfig(), "namespace", "namespace: shop");
    let forward = bed.by(bed.file("shop", &text), "k8s:////pod/till:80");
    assert_eq!(ready(&forward).await.namespace.as_deref(), Some("shop"));
    call(&forward).await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_mended_is_read_again_with_the_next_attempt() {
    let bed = Bed::web().await;
    let good = bed.cluster.kubeconfig();
    let settings = bed.file("mended", &set(&good, "current-context", "current-context: other"));
    let mut options = ForwardOptions::default();
    options.settings.failure_memory = std::time::Duration::ZERO;
    let target = adit_core::target::Target::parse("k8s:///default/service/web:80").unwrap();
    let forward = Forward::new(&bed.scope, &Clusters::new(settings), "web", target, options);
    refusal(&forward).await.has(&["`other`"], &[]);
    bed.file("mended", &good);
    ready(&forward).await;
    call(&forward).await;
}
