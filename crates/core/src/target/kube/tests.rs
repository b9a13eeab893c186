//! Tests of `k8s://` URLs.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;

fn back(text: &str) -> Result<String, KubeTargetError> {
    KubeTarget::parse(text).map(|target| target.to_string())
}

#[test]
fn every_part_is_read() {
    let target = KubeTarget::parse("k8s://prod/databases/service/postgresql:5432").unwrap();
    assert_eq!(
        target,
        KubeTarget {
            context: Some("prod".into()),
            namespace: Some("databases".into()),
            selection: Selection::Object { kind: ObjectKind::Service, name: "postgresql".into() },
            port: PortRef::Number(NonZeroU16::new(5432).unwrap()),
        }
    );
}

#[test]
fn kinds_have_short_forms_and_are_written_back_in_full() {
    for (short, full) in
        [("svc", "service"), ("deploy", "deployment"), ("sts", "statefulset"), ("rs", "replicaset"), ("po", "pod")]
    {
        assert_eq!(back(&format!("k8s://c/n/{short}/x:http")), Ok(format!("k8s://c/n/{full}/x:http")));
    }
}

#[test]
fn context_and_namespace_may_be_left_to_the_kubeconfig() {
    for text in ["k8s:////pod/x:80", "k8s://c//pod/x:80", "k8s:///n/pod/x:80"] {
        assert_eq!(back(text).as_deref(), Ok(text));
    }
    let target = KubeTarget::parse("k8s:////pod/x:80").unwrap();
    assert_eq!((target.context, target.namespace), (None, None));
}

#[test]
fn contexts_of_clouds_are_written_with_escapes() {
    let text = "k8s://arn%3Aaws%3Aeks%3Aeu-west-1%3A1%3Acluster%2Fprod/n/pod/x:80";
    let target = KubeTarget::parse(text).unwrap();
    assert_eq!(target.context.as_deref(), Some("arn:aws:eks:eu-west-1:1:cluster/prod"));
    assert_eq!(target.to_string(), text);
    let target = KubeTarget::parse("k8s://me@kind:1/n/pod/x:80").unwrap();
    assert_eq!(target.context.as_deref(), Some("me@kind:1"), "what is no slash needs no escape");
}

#[test]
fn pods_may_be_chosen_by_labels() {
    let labels = |text: &str| match KubeTarget::parse(text).map(|t| t.selection) {
        Ok(Selection::Labels(labels)) => labels,
        other => panic!("{other:?}"),
    };
    assert_eq!(labels("k8s://c/n/selector/app=web,tier=x:80"), "app=web,tier=x");
    assert_eq!(labels("k8s://c/n/selector/app.kubernetes.io/name=web:http"), "app.kubernetes.io/name=web");
    assert_eq!(labels("k8s://c/n/selector/app.kubernetes.io%2Fname=web:http"), "app.kubernetes.io/name=web");
    assert_eq!(labels("k8s://c/n/selector/app%20in%20(a,b):80"), "app in (a,b)");
    assert_eq!(
        back("k8s://c/n/selector/a/b=c:80").as_deref(),
        Ok("k8s://c/n/selector/a%2Fb=c:80"),
        "the canonical form has as many slashes as parts"
    );
}

#[test]
fn each_wrong_part_is_named() {
    use KubeTargetError as E;
    for text in ["k8s://", "k8s://c", "k8s://c/n/pod", "k8s://c/n/pod/x", "k8s:c/n/pod/x:1", "http://c/n/pod/x:1"] {
        assert!(matches!(back(text), Err(E::Form { .. })), "{text}");
    }
    assert!(matches!(back("k8s://a%/n/pod/x:1"), Err(E::Escape { .. })));
    assert!(matches!(back("k8s://a%0Ab/n/pod/x:1"), Err(E::Context { .. })));
    assert!(matches!(back("k8s://a?b/n/pod/x:1"), Err(E::Context { .. })));
    assert!(matches!(back("k8s://c/N/pod/x:1"), Err(E::Namespace { .. })));
    assert!(matches!(back("k8s://c/n.x/pod/x:1"), Err(E::Namespace { .. })));
    assert!(matches!(back("k8s://c/n/node/x:1"), Err(E::Kind(KindError::Unknown { .. }))));
    assert!(matches!(back("k8s://c/n/ds/x:1"), Err(E::Kind(KindError::DaemonSet))));
    for name in ["", "X", "x/y", "-x", "x%2Fy", "..", "$(id)"] {
        assert!(matches!(back(&format!("k8s://c/n/pod/{name}:1")), Err(E::Name { .. })), "{name}");
    }
    for port in ["", "0", "65536", "HTTP", "80/udp", "a_b"] {
        assert!(back(&format!("k8s://c/n/pod/x:{port}")).is_err(), "{port}");
    }
    assert!(matches!(back("k8s://c/n/pod/x:0"), Err(E::Port(_))));
    assert!(matches!(back("k8s://c/n/selector/=x:1"), Err(E::Selector { .. })));
    assert!(matches!(back("k8s://c/n/selector/:1"), Err(E::Selector { .. })));
}

#[test]
fn every_refusal_is_a_usage_fault_with_a_hint() {
    let texts = "k8s:// k8s://a%/n/pod/x:1 k8s://%0A/n/pod/x:1 k8s://c/N/pod/x:1 k8s://c/n/x/x:1 k8s://c/n/ds/x:1 \
                 k8s://c/n/pod/X:1 k8s://c/n/selector/=:1 k8s://c/n/pod/x:0";
    for text in texts.split(' ') {
        let error = KubeTarget::parse(text).unwrap_err();
        assert_eq!(error.fault(), Fault::Usage, "{text}");
        assert!(error.hint().is_some(), "{text}");
    }
}

fn contexts() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[^\\p{Cc}]{1,20}")
}

pub(in crate::target) fn selections() -> impl Strategy<Value = Selection> {
    let object = (proptest::sample::select(ObjectKind::ALL.to_vec()), "[a-z0-9]([a-z0-9.]?[a-z0-9]){0,10}")
        .prop_map(|(kind, name)| Selection::Object { kind, name });
    let labels = "[a-z]{1,5}(/[a-z]{1,5})?(=|!=)[a-zA-Z0-9]{0,5}(,![a-z]{1,3})?".prop_map(Selection::Labels);
    prop_oneof![object, labels]
}

proptest! {
    #[test]
    fn a_target_is_read_back_from_its_text(
        context in contexts(),
        namespace in proptest::option::of("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"),
        selection in selections(),
        port in prop_oneof!["[1-9][0-9]{0,3}", "[a-z][a-z0-9]{0,8}"],
    ) {
        let target = KubeTarget { context, namespace, selection, port: PortRef::parse(&port).unwrap() };
        prop_assert_eq!(KubeTarget::parse(&target.to_string()), Ok(target));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = KubeTarget::parse(&format!("k8s://{text}"));
    }
}
