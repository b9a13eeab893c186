use super::*;
use crate::command::top::rows::Cell;

fn row(pid: u64, command: &str, rate: u64) -> Row {
    let text = |text: &str| Cell { text: text.to_owned(), number: None };
    let number = |number: u64| Cell { text: number.to_string(), number: Some(number) };
    let mut row = vec![number(pid), text(command)];
    row.extend((2..10).map(|at| number(if at == 6 { rate } else { 0 })));
    row.extend([text(""), text("host")]);
    row
}

fn view() -> View {
    let mut view = View::new(By::Process, "");
    view.rows = vec![row(3, "curl", 5), row(20, "nginx", 100), row(1, "adit", 5)];
    view
}

fn commands(view: &View) -> Vec<String> {
    let lines = view.table(200, 100);
    lines[1..].iter().map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_is_busy_is_on_top_and_keys_change_the_order() {
    let mut view = view();
    assert_eq!(commands(&view), ["nginx", "curl", "adit"]);
    view.handle_key(b'r');
    assert_eq!(commands(&view), ["adit", "curl", "nginx"]);
    view.handle_key(b'r');
    view.sort_by("command").unwrap();
    assert_eq!(commands(&view), ["adit", "curl", "nginx"]);
    for _ in 0..12 {
        view.handle_key(b'>');
    }
    assert_eq!(commands(&view), ["adit", "curl", "nginx"], "once around");
    assert!(view.sort_by("nothing").unwrap_err().starts_with("pid, command"));
}

#[test]
fn a_filter_is_typed_kept_and_taken_away() {
    let mut view = view();
    for key in b"/CURx\x7f\r" {
        assert_eq!(view.handle_key(*key), After::Stay);
    }
    assert_eq!((view.filter(), commands(&view)), ("CUR", vec!["curl".to_owned()]));
    for key in b"/zz" {
        view.handle_key(*key);
    }
    assert!(view.table(80, 10)[1].contains("nothing fits the filter"));
    // Letters that are commands elsewhere are letters here.
    assert_eq!(view.handle_key(b'q'), After::Stay);
    view.handle_key(27);
    assert_eq!(commands(&view).len(), 3);
    assert_eq!(view.handle_key(b'q'), After::Leave);
}

#[test]
fn a_pause_holds_the_lines_and_another_kind_ends_it() {
    let mut view = view();
    view.handle_key(b'p');
    assert!(view.is_paused());
    view.handle_key(b'\t');
    assert!(!view.is_paused() && view.rows.is_empty() && view.by == By::Connection);
    view.handle_key(b'1');
    assert_eq!(view.by, By::Process);
}

#[test]
fn the_screen_is_filled_and_never_wider_or_longer_than_it_is() {
    let mut view = view();
    view.rows.extend((100..200).map(|pid| row(pid, "worker", 0)));
    for (width, height) in [(80, 24), (20, 8), (200, 60)] {
        let lines = view.draw(&Way::default(), &Counts::default(), width, height);
        assert_eq!(lines.len(), height);
        for line in &lines {
            let plain = line.replace("\x1b[7m", "").replace("\x1b[0m", "");
            assert!(plain.chars().count() <= width, "{plain}");
        }
        assert!(lines.iter().any(|line| line.starts_with("and ")), "{lines:#?}");
    }
}

#[test]
fn what_is_not_seen_is_said() {
    let reason = ::monitor::source::Obstacle { message: "CAP_BPF is missing".into(), hint: "sudo".into() };
    let way = Way { source: "sock_diag", missing: vec!["failed connections"], reason: Some(reason), ..Way::default() };
    let text = view().draw(&way, &Counts::default(), 80, 24).join("\n");
    for word in ["polled only: CAP_BPF is missing", "hint: sudo", "not seen: failed connections"] {
        assert!(text.contains(word), "{word}\n{text}");
    }
}

#[test]
fn what_a_stranger_named_does_not_command_the_terminal() {
    let mut view = view();
    view.rows = vec![row(3, "cu\x1b]0;pwn\x07\u{202e}rl", 5)];
    let text = view.table(200, 10).join("\n");
    assert!(text.contains("cu\u{fffd}]0;pwn\u{fffd}\u{fffd}rl"), "{text:?}");
}

#[test]
fn a_narrow_screen_does_without_what_says_least_and_keeps_the_forward_and_the_keys() {
    let mut view = view();
    let mut wide = row(3_000_000, "a-long-command", 5);
    wide[10] = Cell { text: "database".into(), number: None };
    view.rows = vec![wide, row(20, "nginx", 100)];
    let titles = |width: usize, view: &View| view.table(width, 10)[0].clone();
    assert!(titles(200, &view).contains("RETRANS") && titles(200, &view).contains("PLACE"));
    let narrow = view.table(80, 10);
    assert!(narrow[0].contains("FORWARD") && !narrow[0].contains("RETRANS"), "{narrow:#?}");
    assert!(narrow[2].trim_end().ends_with("database") && narrow[2].contains("a-long-command"), "{narrow:#?}");
    // Without a forward it makes room for the others; what is sorted by stays.
    view.rows.remove(0);
    assert!(!titles(80, &view).contains("FORWARD"), "{}", titles(80, &view));
    view.sort_by("retrans").unwrap();
    assert!(titles(60, &view).contains("RETRANSv"), "{}", titles(60, &view));
    let screen = view.draw(&Way::default(), &Counts::default(), 80, 24);
    assert!(screen.last().unwrap().ends_with("q quit"), "{screen:#?}");
}
