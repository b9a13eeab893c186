use super::*;
use crate::k8s::objects::Pod;
use proptest::prelude::*;
use serde_json::json;

fn pod(name: &str, uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "uid": uid}})).unwrap()
}

fn forbidden() -> ApiError {
    ApiError::Forbidden { message: "no".into() }
}

fn timeout() -> ApiError {
    ApiError::Timeout { server: "s".into(), after: Duration::from_secs(1) }
}

fn gone() -> ApiError {
    ApiError::Gone { message: "too old".into() }
}

fn single() -> Cursor {
    Cursor::new(Collection::single("/api/v1/namespaces/a/pods".into(), "x"))
}

fn labelled() -> Cursor {
    Cursor::new(Collection::labelled("/api/v1/namespaces/a/pods".into(), "app=web,tier in (a,b)"))
}

fn watching() -> Cursor {
    Cursor { version: Some("7".into()), ..labelled() }
}

const LONG: Duration = Duration::from_secs(100);
const SHORT: Duration = Duration::from_millis(10);

#[test]
fn queries_are_escaped() {
    assert_eq!(
        labelled().what.list(Some("a+b")),
        "/api/v1/namespaces/a/pods?limit=500&labelSelector=app%3Dweb%2Ctier%20in%20%28a%2Cb%29&continue=a%2Bb"
    );
    assert_eq!(
        single().what.watch("7", 250),
        "/api/v1/namespaces/a/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=250&resourceVersion=7&fieldSelector=metadata.name%3Dx"
    );
    assert_eq!(single().what.get().unwrap(), "/api/v1/namespaces/a/pods/x");
}

#[test]
fn the_late_end_of_a_pod_does_not_remove_its_successor() {
    let mut view = View::new();
    view.replace(vec![pod("a", "1")]);
    view.put(pod("a", "2"));
    view.remove(&pod("a", "1"));
    assert_eq!(view.objects["a"].metadata.uid, "2");
    view.remove(&pod("a", "2"));
    assert!(view.objects.is_empty() && view.is_current());
}

#[test]
fn an_error_leaves_what_is_known_and_keeps_the_time_of_the_first() {
    let (mut view, now) = (View::new(), Instant::now());
    view.replace(vec![pod("a", "1")]);
    view.fail(timeout(), now);
    view.fail(forbidden(), now + LONG);
    assert_eq!((view.state, view.objects.len()), (State::Known, 1));
    assert_eq!(view.trouble.as_ref().unwrap().since, now);
    assert!(!view.is_current());
    view.replace(Vec::new());
    assert!(view.is_current() && view.objects.is_empty());
}

#[test]
fn what_was_never_known_is_forbidden_missing_or_still_loading() {
    for (error, state) in [
        (forbidden(), State::Forbidden),
        (ApiError::NotFound { message: "x".into() }, State::Missing),
        (timeout(), State::Loading),
    ] {
        let mut view = View::<Pod>::new();
        view.fail(error, Instant::now());
        assert_eq!(view.state, state);
    }
}

#[test]
fn a_watch_that_ended_is_followed_by_another_at_once_and_then_with_waits() {
    let mut cursor = watching();
    assert_eq!(cursor.settle(Ok(()), LONG, u64::MAX).wait, Duration::ZERO);
    assert!(cursor.settle(Ok(()), SHORT, u64::MAX).wait > Duration::from_millis(90));
    assert!(cursor.settle(Ok(()), SHORT, u64::MAX).wait > Duration::from_millis(190));
    assert_eq!(cursor.settle(Ok(()), LONG, u64::MAX).wait, Duration::ZERO);
    assert_eq!(cursor.version.as_deref(), Some("7"));
}

#[test]
fn a_broken_watch_is_a_trouble_only_when_the_next_one_fails_as_well() {
    let mut cursor = watching();
    assert!(cursor.settle(Err(timeout()), LONG, 0).trouble.is_none());
    assert!(cursor.settle(Err(timeout()), SHORT, 0).trouble.is_some());
    assert_eq!(cursor.version.as_deref(), Some("7"), "it goes on from where it was");
}

#[test]
fn a_version_that_is_gone_is_listed_anew() {
    let mut cursor = watching();
    let settled = cursor.settle(Err(gone()), LONG, 0);
    assert!(settled.wait.is_zero() && settled.trouble.is_none());
    assert_eq!(cursor.version, None);
    cursor.version = Some("9".into());
    assert!(cursor.settle(Err(gone()), SHORT, u64::MAX).wait > Duration::ZERO, "a second time it waits");
}

#[test]
fn a_single_object_is_polled_when_only_get_is_permitted() {
    let mut cursor = single();
    let settled = cursor.settle(Err(forbidden()), SHORT, 0);
    assert!(settled.wait.is_zero() && settled.trouble.is_none());
    assert_eq!(cursor.way, Way::PollGet);
    assert_eq!(cursor.settle(Ok(()), SHORT, 0).wait, POLL);
    let settled = cursor.settle(Err(forbidden()), SHORT, 0);
    assert_eq!(settled.wait, REFUSED);
    assert!(settled.trouble.is_some() && cursor.way == Way::Watch);
}

#[test]
fn a_list_is_repeated_when_only_the_watch_is_refused() {
    let mut cursor = watching();
    let settled = cursor.settle(Err(forbidden()), SHORT, 0);
    assert_eq!((settled.wait, cursor.way), (POLL, Way::PollList));
    for _ in 0..POLLS {
        assert_eq!(cursor.settle(Ok(()), SHORT, 0).wait, POLL);
    }
    assert_eq!(cursor.way, Way::Watch, "rights may have been given");
}

#[test]
fn a_collection_that_may_not_be_listed_is_asked_about_again_later() {
    let mut cursor = labelled();
    let settled = cursor.settle(Err(forbidden()), SHORT, 0);
    assert_eq!(settled.wait, REFUSED);
    assert!(matches!(settled.trouble, Some(ApiError::Forbidden { .. })));
    let settled = cursor.settle(Err(ApiError::NotFound { message: "x".into() }), SHORT, 0);
    assert_eq!(settled.wait, REFUSED);
}

#[test]
fn an_overloaded_server_and_a_user_without_credentials_are_asked_rarely() {
    let mut cursor = labelled();
    let overloaded = ApiError::Status { code: 429, message: "slow down".into() };
    assert_eq!(cursor.settle(Err(overloaded), SHORT, 0).wait, OVERLOADED);
    let unknown = ApiError::Unauthorized { message: "who?".into() };
    assert_eq!(cursor.settle(Err(unknown), SHORT, 0).wait, UNKNOWN_USER);
}

#[test]
fn a_machine_that_woke_asks_at_once_and_tries_the_watch_again() {
    let mut cursor = single();
    for _ in 0..9 {
        cursor.settle(Err(timeout()), SHORT, 0);
    }
    cursor.woken();
    assert_eq!(cursor.settle(Err(timeout()), SHORT, u64::MAX).wait, Duration::ZERO);
    cursor.way = Way::PollGet;
    cursor.woken();
    cursor.settle(Ok(()), SHORT, 0);
    assert_eq!(cursor.way, Way::Watch);
}

proptest! {
    #[test]
    fn whatever_happens_there_are_no_two_attempts_without_a_wait_unless_a_watch_worked(
        ends in proptest::collection::vec((0u8..6, any::<u64>()), 1..60), named in any::<bool>()
    ) {
        let mut cursor = if named { single() } else { labelled() };
        let mut at_once = 0;
        for (end, random) in ends {
            let result = match end {
                0 => Ok(()),
                1 => Err(gone()),
                2 => Err(forbidden()),
                3 => Err(timeout()),
                4 => Err(ApiError::NotFound { message: String::new() }),
                _ => Err(ApiError::Decode { what: String::new(), reason: String::new() }),
            };
            let settled = cursor.settle(result, SHORT, random | 1 << 63);
            prop_assert!(settled.wait <= REFUSED);
            // One step down in rights is taken at once.
            at_once = if settled.wait.is_zero() { at_once + 1 } else { 0 };
            prop_assert!(at_once < 2);
        }
    }

    #[test]
    fn what_is_encoded_has_no_character_with_a_meaning(text in any::<String>()) {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~%".contains(c);
        prop_assert!(encoded(&text).chars().all(legal));
    }
}
