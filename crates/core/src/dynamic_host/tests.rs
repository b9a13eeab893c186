//! Dynamic hosts read and written.

use proptest::prelude::*;

use super::*;

const ARN: &str = "arn:aws:eks:eu-west-1:123456789012:cluster/prod";

fn hosts() -> DynamicHosts {
    let alias = |label: &str, context: &str| (label.to_owned(), context.to_owned());
    let aliases = [alias("eks", ARN), alias("Prod", "gke_acme_prod"), alias("prod", "never"), alias("a.b", "dotted")];
    DynamicHosts::new(Hostname::parse("k8s.localhost").unwrap(), &aliases)
}

fn read(front: &str) -> Result<DynamicTarget, DynamicHostError> {
    hosts().parse(&format!("{front}.k8s.localhost")).unwrap()
}

/// What is read, as a target URL behind the scheme.
fn url(front: &str) -> String {
    let target = read(front).unwrap();
    format!("{} {}", target.scheme, target.to_target())
}

fn service(context: &str) -> DynamicTarget {
    DynamicTarget {
        kind: DynamicKind::Service,
        name: "web".to_owned(),
        port: PortRef::parse("80").unwrap(),
        namespace: "default".to_owned(),
        context: context.to_owned(),
        scheme: Scheme::Http,
    }
}

/// The labels of a context in the host that is written for it.
fn context_labels(context: &str) -> String {
    let host = hosts().host(&service(context)).unwrap_or_else(|| panic!("no host for {context:?}"));
    assert_eq!(hosts().parse(&host), Some(Ok(service(context))));
    let front = host.strip_suffix(".cx.k8s.localhost").unwrap();
    front.strip_prefix("web-80.svc.default.ns.").unwrap().to_owned()
}

#[test]
fn services_and_pods_are_read_as_autotunnel_has_them() {
    assert_eq!(url("nginx-80.svc.default.ns.dev.cx"), "http k8s://dev/default/service/nginx:80");
    assert_eq!(url("argocd-server-443.svc.argocd.ns.dev.cx"), "http k8s://dev/argocd/service/argocd-server:443");
    assert_eq!(url("web-0-8080.pod.default.ns.kind-test.cx"), "http k8s://kind-test/default/pod/web-0:8080");
    assert_eq!(url("a.b.c-80.pod.default.ns.dev.cx"), "http k8s://dev/default/pod/a.b.c:80", "a pod with dots");
}

#[test]
fn a_port_has_a_number_or_a_name_without_hyphens() {
    assert_eq!(url("web-http.svc.default.ns.dev.cx"), "http k8s://dev/default/service/web:http");
    assert_eq!(url("web-grpc-web.svc.default.ns.dev.cx"), "http k8s://dev/default/service/web-grpc:web");
    assert_eq!(url("web-1-2.svc.default.ns.dev.cx"), "http k8s://dev/default/service/web-1:2");
    let hyphen = DynamicTarget { port: PortRef::parse("grpc-web").unwrap(), ..service("dev") };
    assert_eq!(hosts().host(&hyphen), None, "it would be read as another service");
}

#[test]
fn the_label_https_makes_tls_of_the_upstream() {
    assert_eq!(url("web-443.https.svc.default.ns.dev.cx"), "https k8s://dev/default/service/web:443");
    assert_eq!(url("https-443.svc.default.ns.dev.cx"), "http k8s://dev/default/service/https:443");
    assert_eq!(url("https-https.https.svc.default.ns.dev.cx"), "https k8s://dev/default/service/https:https");
    assert_eq!(url("a.https-80.pod.default.ns.dev.cx"), "http k8s://dev/default/pod/a.https:80");
}

#[test]
fn names_may_be_the_words_of_the_grammar() {
    assert_eq!(url("svc-1.svc.svc.ns.svc.cx"), "http k8s://svc/svc/service/svc:1");
    assert_eq!(url("cx-1.svc.ns.ns.cx.cx"), "http k8s://cx/ns/service/cx:1");
    assert_eq!(url("a.svc.b-1.pod.pod.ns.pod.cx"), "http k8s://pod/pod/pod/a.svc.b:1");
    assert_eq!(url("a.ns.b-1.pod.x.ns.y.cx"), "http k8s://y/x/pod/a.ns.b:1");
}

#[test]
fn contexts_may_have_dots() {
    assert_eq!(read("web-80.svc.default.ns.dev.example.com.cx").unwrap().context, "dev.example.com");
    assert_eq!(read("web-80.svc.default.ns.a.cx.b.cx").unwrap().context, "a.cx.b");
    assert_eq!(context_labels("dev.example.com"), "dev.example.com");
}

#[test]
fn what_a_label_cannot_hold_is_escaped() {
    for (context, labels) in [
        ("me@corp", "me--40corp"),
        ("kube_test", "kube--5ftest"),
        ("devProd", "dev--50rod"),
        ("Admin@corp", "0--41dmin--40corp"),
        ("_x", "0--5fx"),
        ("-x-", "0--2dx--2d"),
        ("a--b", "a--b"),
        ("gke--prod", "gke--prod"),
        ("a--beef", "a--2d-beef"),
        ("a---41", "a---2d-41"),
        ("0/x", "0--30--2fx"),
        ("0-", "0--30--2d"),
        ("00/x", "0--300--2fx"),
        ("000/x", "000--2fx"),
        ("0--41", "0--30--2d-41"),
        ("xn--4x", "0--78n--4x"),
        ("xn:4", "0--78n--3a4"),
        ("a.ns.b", "a.0--6es.b"),
        ("ns", "0--6es"),
        ("a..b", "a--2e.b"),
        (".a.", "0--2ea--2e"),
        ("é", "0--c3--a9"),
        ("a b", "a--20b"),
        ("A.B", "0--41.0--42"),
    ] {
        assert_eq!(context_labels(context), labels, "{context}");
    }
}

#[test]
fn a_context_longer_than_a_label_goes_on_in_the_next() {
    let bare = DynamicHosts::new(Hostname::parse("k8s.localhost").unwrap(), &[]);
    let host = bare.host(&service(ARN)).unwrap();
    let labels = "arn--3aaws--3aeks--3aeu-west-1--3a123456789012--3acluster--2fpr.00--6fd";
    assert_eq!(host, format!("web-80.svc.default.ns.{labels}.cx.k8s.localhost"));
    assert_eq!(bare.parse(&host), Some(Ok(service(ARN))));
    // By hand it is broken where one likes.
    let by_hand = "web-80.svc.default.ns.arn--3aaws--3aeks--3aeu-west-1--3a123456789012.00--3acluster--2fprod.cx";
    assert_eq!(read(by_hand).unwrap().context, ARN);
    let hyphens = format!("{}{}x", "a".repeat(60), "-".repeat(20));
    assert_eq!(bare.host(&service(&hyphens)).map(|host| bare.parse(&host)), Some(Some(Ok(service(&hyphens)))));
}

#[test]
fn a_host_beside_another_one_keeps_its_spelling_of_the_context() {
    let other = DynamicTarget { name: "wbe".to_owned(), ..service("gke_acme_prod") };
    for labels in ["prod", "gke--5facme--5fprod"] {
        let typed = format!("web-80.svc.default.ns.{labels}.cx.k8s.localhost");
        let wanted = format!("wbe-80.svc.default.ns.{labels}.cx.k8s.localhost");
        assert_eq!(hosts().host_as_typed(&other, &typed).as_deref(), Some(wanted.as_str()));
    }
    // One that means another context, or none.
    for typed in ["web-80.svc.default.ns.eks.cx.k8s.localhost", "web.localhost"] {
        assert_eq!(hosts().host_as_typed(&other, typed), hosts().host(&other), "{typed}");
    }
}

#[test]
fn aliases_win_in_both_directions() {
    assert_eq!(read("web-80.svc.default.ns.eks.cx").unwrap().context, ARN);
    assert_eq!(
        read("web-80.svc.default.ns.prod.cx").unwrap().context,
        "gke_acme_prod",
        "lower-cased, the first of two"
    );
    assert_eq!(read("web-80.svc.default.ns.a.b.cx").unwrap().context, "dotted");
    assert_eq!(context_labels(ARN), "eks");
    assert_eq!(context_labels("gke_acme_prod"), "prod");
    assert_eq!(context_labels("dotted"), "a.b");
    assert_eq!(context_labels("prod"), "0--70rod", "the context that an alias hides can still be named");
    assert_eq!(context_labels("a.b"), "0--61.b");
    assert_eq!(hosts().host(&service("never")).as_deref(), Some("web-80.svc.default.ns.never.cx.k8s.localhost"));
}

#[test]
fn hosts_elsewhere_are_none_of_ours() {
    for host in ["argocd.localhost", "k8s.localhost", "xk8s.localhost", "a.cx.k8s.localhost.evil.example", "", "."] {
        assert_eq!(hosts().parse(host), None, "{host}");
    }
    assert_eq!(hosts().suffix().as_str(), "k8s.localhost");
}

#[test]
fn what_is_missing_is_named_with_the_whole_form() {
    for (front, part) in [
        ("web-80.svc.default.ns.dev", "context, which"),
        ("web-80", "context, which"),
        ("cx", "context, which"),
        ("xcx", "context, which"),
        ("web-80.svc.default.dev.cx", "namespace and context"),
        ("web-80.svc.default.ns.cx", "namespace and context"),
        ("ns.dev.cx", "namespace and context"),
        ("default.ns.dev.cx", "service or pod before"),
        ("svc.default.ns.dev.cx", "service or pod, and"),
        ("web.svc.default.ns.dev.cx", "port"),
        ("https.svc.default.ns.dev.cx", "port"),
        ("web.https.svc.default.ns.dev.cx", "port"),
    ] {
        let error = read(front).unwrap_err();
        assert!(error.to_string().starts_with(&format!("the host names no {part}")), "{front}: {error}");
        let form = match front.strip_suffix(".svc.default.ns.dev.cx") {
            Some(name) if part == "port" => {
                let (name, tls) = name.strip_suffix(".https").map_or((name, ""), |name| (name, ".https"));
                format!("write {name}-PORT{tls}.svc.default.ns.dev.cx.k8s.localhost")
            }
            _ => "write NAME-PORT.svc.NAMESPACE.ns.CONTEXT.cx.k8s.localhost, or `pod` for `svc`".to_owned(),
        };
        assert_eq!((error.fault(), error.hint()), (Fault::Usage, Some(form)));
    }
}

#[test]
fn a_wrong_part_is_named_with_a_hint() {
    let kind = |word: &str| DynamicHostError::Kind { word: word.into(), form: hosts().form() };
    let port = |text: &str| DynamicHostError::Port(PortError { text: text.into() });
    let name = |name: &str, kind| DynamicHostError::Name { name: name.into(), kind };
    for (front, expected, hint) in [
        ("web-80.scv.default.ns.dev.cx", kind("scv"), "did you mean `svc`?"),
        ("web-80.service.default.ns.dev.cx", kind("service"), "did you mean `svc`?"),
        ("web-80.pods.default.ns.dev.cx", kind("pods"), "did you mean `pod`?"),
        ("web-80.deployment.default.ns.dev.cx", kind("deployment"), "write NAME-PORT"),
        ("web-0.svc.default.ns.dev.cx", port("0"), "65535"),
        ("web-70000.svc.default.ns.dev.cx", port("70000"), "65535"),
        ("web-.svc.default.ns.dev.cx", port(""), "65535"),
        ("-80.svc.default.ns.dev.cx", name("", DynamicKind::Service), "63"),
        ("a.b-80.svc.default.ns.dev.cx", name("a.b", DynamicKind::Service), "63"),
        ("a..b-80.pod.default.ns.dev.cx", name("a..b", DynamicKind::Pod), "dots"),
        ("web-80.svc.-x.ns.dev.cx", DynamicHostError::Namespace { namespace: "-x".into() }, "63"),
        ("web-80.svc.default.ns.a--beef.cx", DynamicHostError::Escape { context: "a--beef".into() }, "alias"),
        ("web-80.svc.default.ns.a--0ab.cx", DynamicHostError::Escape { context: "a--0ab".into() }, "alias"),
    ] {
        let error = read(front).unwrap_err();
        assert_eq!((&error, error.fault()), (&expected, Fault::Usage), "{front}");
        assert!(error.hint().unwrap().contains(hint), "{front}: {:?}", error.hint());
    }
}

#[test]
fn what_fits_into_no_name_has_no_host() {
    let none = |target: &DynamicTarget| assert_eq!(hosts().host(target), None, "{target:?}");
    none(&DynamicTarget { name: "a".repeat(61), ..service("dev") });
    none(&service(""));
    none(&service("a\nb"));
    none(&service(&"a".repeat(300)));
    none(&DynamicTarget { name: "a.b".to_owned(), ..service("dev") });
    none(&DynamicTarget { namespace: "A".to_owned(), ..service("dev") });
    assert!(hosts().host(&DynamicTarget { name: "a".repeat(60), ..service("dev") }).is_some());
    let odd = DynamicHosts::new(Hostname::parse("x.localhost").unwrap(), &[("a_b.ns".into(), "odd".into())]);
    assert_eq!(odd.host(&service("odd")), None, "an alias that is no label");
}

/// Contexts in which everything that means something to us is frequent.
fn any_context() -> impl Strategy<Value = String> {
    prop_oneof!["[a-f0-9AX/:@_.n-]{1,40}", "[0ns.-]{1,8}", "(xn--|0--|00--|--)?[0-9a-f-]{1,70}", "\\PC{1,12}"]
}

proptest! {
    #[test]
    fn the_host_of_a_target_leads_back_to_it(
        pod in any::<bool>(), name in "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", port in "[1-9][0-9]{0,3}|[a-z][a-z0-9]{0,8}",
        namespace in "ns|svc|pod|cx|https|[a-z]{1,8}", context in any_context(), tls in any::<bool>()
    ) {
        let target = DynamicTarget {
            kind: if pod { DynamicKind::Pod } else { DynamicKind::Service },
            name,
            port: PortRef::parse(&port).unwrap(),
            namespace,
            context,
            scheme: if tls { Scheme::Https } else { Scheme::Http },
        };
        let short = context_fits(&target.context);
        let host = hosts().host(&target);
        prop_assert!(host.is_some() || !short, "no host for {target:?}");
        if let Some(host) = host {
            prop_assert!(Hostname::parse(&host).is_ok_and(|legal| legal.as_str() == host));
            prop_assert_eq!(hosts().parse(&host), Some(Ok(target)));
        }
    }

    #[test]
    fn no_host_makes_it_panic(host in any::<String>(), front in "[a-cn.-]{0,10}(-80)?(\\.https)?\\.(svc|pod)?\\.[ns.-]{0,8}\\.ns\\.[0-9a-f.-]{0,80}\\.cx") {
        let _ = hosts().parse(&host);
        let _ = read(&front);
        let _ = service(&host).to_target();
        let _ = hosts().host(&service(&host));
    }
}

/// Whether its escapes surely leave room in 253 characters.
fn context_fits(context: &str) -> bool {
    context.len() <= 25
}
