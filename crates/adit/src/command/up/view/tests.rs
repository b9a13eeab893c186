use gateway::rows::Outage;

use super::*;
use crate::command::up::table;

#[test]
fn a_long_table_leaves_a_quarter_of_the_height_to_what_has_happened() {
    assert_eq!(
        [(24, 40), (24, 15), (24, 3), (2, 9)].map(|(height, wished)| room_for_notes(height, wished)),
        [6, 7, 12, 0]
    );
}

#[test]
fn notes_are_shown_whole_and_the_latest_first_of_all() {
    let notes =
        ["12:00:00  one".to_owned(), format!("12:00:01  {}", "word ".repeat(10).trim()), "12:00:02  last".to_owned()];
    let lines = last_lines(&notes, 32, 10);
    assert_eq!((lines.first().unwrap().as_str(), lines.last().unwrap().as_str()), ("12:00:00  one", "12:00:02  last"));
    assert_eq!(lines.concat().matches("word").count(), 10);
    assert_eq!(last_lines(&notes, 32, 2), ["12:00:02  last"]);
}

#[test]
fn an_entrance_of_another_kind_after_a_reload_still_waits_for_its_cluster() {
    let view = View::start_with(Form::None, true, None).unwrap();
    let away = |kind| {
        let outage = Some(Outage { context: "dev".into(), reason: "away".into() });
        Row { kind, state: State::Failed, outage, ..table::tests::row("db", "", "k8s://dev/a/service/b:1") }
    };
    let mut told = HashMap::new();
    view.look(&mut told, &table::tests::snapshot(vec![away("forward")]));
    // It was given a port.
    view.look(&mut told, &table::tests::snapshot(vec![away("port")]));
    assert!(matches!(lock(&view.outages).handle_back(Instant::now(), "db"), Back::After(_)));
}

#[test]
fn a_reload_names_what_it_changed_and_how_many_more() {
    let names = |count: usize| (1..=count).map(|n| format!("route r{n}")).collect::<Vec<_>>();
    let change = Change { changed: names(7), removed: names(1), ..Change::default() };
    assert_eq!(
        in_words(&change),
        "changed route r1, route r2, route r3, route r4, route r5 and 2 more; removed route r1"
    );
    assert_eq!(in_words(&Change::default()), "nothing has changed");
}

fn row(state: State, reason: Option<&str>) -> Row {
    Row {
        name: "web".into(),
        kind: "host",
        echoes: false,
        entrance: String::new(),
        target: "k8s://dev/default/service/web:80".into(),
        pod: Some("web-1".into()),
        state,
        took: None,
        reason: reason.map(str::to_owned),
        hint: None,
        outage: None,
        health: None,
        streams: 0,
        opened: 0,
        bytes_in: 0,
        bytes_out: 0,
        last_error: None,
    }
}

/// What is on a terminal after a row was so, one after the other.
fn noted(rows: &[Row]) -> String {
    let view = View::start_with(Form::Table, false, None).unwrap();
    let now = Instant::now();
    rows.iter().fold(None, |told, row| Some(view.compare(row, told, now)));
    view.notes().join("\n")
}

#[test]
fn what_was_not_looked_for_is_back_without_a_time() {
    let (ready, lost) = (row(State::Ready, None), row(State::Failed, Some("it is away")));
    let told = noted(&[ready.clone(), lost.clone(), ready.clone()]);
    assert!(told.contains("web: back after 0.0 s"), "{told}");
    let told = noted(&[ready.clone(), lost, row(State::Idle, None), ready]);
    assert!(!told.contains("back after"), "{told}");
}

#[test]
fn what_is_dialled_anew_without_trouble_is_no_loss() {
    let told = noted(&[row(State::Ready, None), row(State::Starting, None), row(State::Ready, None)]);
    assert!(told.contains("web: dialled anew") && told.contains("web: back after 0.0 s"), "{told}");
    assert!(!told.contains("lost"), "{told}");
    let waits = row(State::Starting, Some("waiting: no pod belongs to it"));
    let told = noted(&[row(State::Ready, None), row(State::Starting, None), waits]);
    assert!(told.contains("web: lost: no pod belongs to it"), "it does not come back: {told}");
}

#[test]
fn what_is_lost_is_told_in_one_word_and_what_fails_with_what_to_do() {
    let told = noted(&[row(State::Ready, None), row(State::Starting, Some("waiting: no pod belongs to it"))]);
    assert!(told.contains("web: lost: no pod belongs to it"), "{told}");
    let hint = Some("it has 80".to_owned());
    let told = noted(&[Row { hint, ..row(State::Failed, Some("it does not have a service port 81")) }]);
    assert!(told.contains("port 81") && told.contains("hint: it has 80"), "{told}");
}

#[test]
fn a_context_that_is_missing_is_told_with_what_becomes_of_the_rest() {
    let view = View::start_with(Form::Table, false, None).unwrap();
    view.missing(&[Problem {
        file: "adit.yaml".into(),
        line: 3,
        column: 1,
        key: "forwards.web.to".into(),
        message: "the context `fak` is not in kubeconfig".into(),
        hint: None,
    }]);
    let told = view.notes().join("\n");
    assert!(told.contains("everything else runs") && told.contains("when the kubeconfig changes"), "{told}");
}
