//! What a person mends, and whoever comes meanwhile.

use std::os::unix::fs::PermissionsExt as _;

use runtime::connect::Connect as _;

use super::*;
use crate::k8s::kubeconfig::KubeSettings;
use crate::supervisor::Forward;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_mended_is_tried_at_once_and_the_wait_after_the_next_refusal_is_longer_all_the_same() {
    let bed = Bed::new(Limits::default()).await;
    let mode = |mode: u32| std::fs::set_permissions(bed.sshd.key(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let bastion = bed.bastion();
    let refused = bed.open(&bastion, bed.origin.addr().port()).await;
    assert!(matches!(refused, Err(OpenedVia::Ssh(error)) if error.is_login()));
    assert!(bastion.held_until().is_some_and(|until| until > Instant::now() + DEADLINE));
    let next = bastion.next_refusal();
    assert!(next > REFUSED.first, "{next:?}");
    mode(0o600);
    within(bastion.seen_to()).await;
    assert_eq!(bastion.next_refusal(), next, "who changes files again and again hammers no server");
    trip(&mut bed.say(&bastion, "echo\n").await, b"let in").await;
    assert_eq!(bastion.held_until(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_does_not_wait_for_a_server_that_is_known_to_be_away() {
    let closed = testkit::process::Closed::take().unwrap();
    let target = format!("ssh://someone@{}/db:5432", closed.address);
    let (scope, clusters) = (Scope::root(), Clusters::new(KubeSettings::default()));
    // As a port of a file has it.
    let options = ForwardOptions { later_timeout: Duration::from_secs(30), ..ForwardOptions::default() };
    let forward = Forward::new(&scope, &clusters, "db", Target::parse(&target).unwrap(), options);
    let begun = Instant::now();
    assert!(within(forward.connect()).await.is_err());
    let first = begun.elapsed();
    assert!(first > Duration::from_secs(8), "it may only be started again: {first:?}");
    let begun = Instant::now();
    let Err(error) = within(forward.connect()).await else { panic!("nobody is there") };
    let later = begun.elapsed();
    assert!(later > Duration::from_secs(1) && later < Duration::from_secs(6), "{later:?}");
    assert!(crate::error::chain(&error).contains("no connection to ssh server"), "{error}");
    scope.abort();
}
