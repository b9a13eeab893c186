use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ::monitor::decode::{Command, ConnectionId, OwnedBy, Owner, ProcessId, Record, State, Step};
use ::monitor::source::{Counts, Obstacle, Part};
use ::monitor::table::Table;

use super::*;
use crate::command::top::rows::Cell;
use crate::command::top::uses::Uses;

const SECOND: Duration = Duration::from_secs(1);

/// A connection to 10.0.0.1:443; without a process when its number is 0.
fn connection(number: u16, pid: u32, command: &str) -> Record {
    let owner = Owner {
        process: ProcessId { pid, start: 1 },
        command: Command::new(command),
        user: Some(0),
        cgroup: 0,
        by: OwnedBy::Connect,
    };
    Record {
        id: ConnectionId::new(number.into(), 1),
        step: Step::Live,
        local: SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000 + number)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 443)),
        incoming: false,
        seen_late: false,
        gone: false,
        owner: (pid > 0).then_some(owner),
        netns: 0,
        state: State::Established,
        established: None,
        ended: None,
        sent: 0,
        received: 0,
        rtt: None,
        min_rtt: None,
        retransmits: 0,
    }
}

/// Three processes with a connection each, which carry something within the second that is looked at.
fn busy() -> Vec<Record> {
    let of = |number, pid, command, sent| Record { sent, ..connection(number, pid, command) };
    vec![of(1, 3, "curl", 5), of(2, 20, "nginx", 100), of(3, 1, "adit", 5)]
}

fn look_at(records: &[Record], sees_failures: bool) -> Look {
    let mut table = Table::default();
    for record in records {
        table.handle_record(SECOND, &Record { sent: 0, ..*record }, Some(&Arc::from("host")));
    }
    table.handle_tick(SECOND);
    for record in records {
        table.handle_record(SECOND * 2, record, None);
    }
    table.handle_tick(SECOND * 2);
    Look {
        at: SECOND * 13,
        connections: table.connections().cloned().collect(),
        processes: table.processes().cloned().collect(),
        remotes: table.remotes().cloned().collect(),
        counts: Counts { opened: 3, ..Counts::default() },
        sees_failures,
        ..Look::default()
    }
}

fn view_of(records: &[Record]) -> View {
    let mut view = View::new(By::Process, "", SECOND);
    view.look(look_at(records, true));
    view
}

fn view() -> View {
    view_of(&busy())
}

/// So many connections of as many processes.
fn many(count: u16) -> Vec<Record> {
    (1..=count).map(|number| connection(number, 1_000 + u32::from(number), "worker")).collect()
}

fn kernel() -> Way {
    let part = Part { purpose: "state", way: "tp_btf", refused: None };
    Way { source: "ebpf", parts: vec![part], ..Way::default() }
}

fn plain(line: &str) -> String {
    ["\x1b[7m", "\x1b[0m", "\x1b[0;1m", "\x1b[0;7m"].iter().fold(line.to_owned(), |line, code| line.replace(code, ""))
}

fn screen(view: &mut View, width: usize, height: usize) -> Vec<String> {
    view.draw(&kernel(), width, height).iter().map(|line| plain(line)).collect()
}

fn press(view: &mut View, keys: &str) {
    for letter in keys.chars() {
        assert_eq!(view.handle_key(Key::Letter(letter)), After::Stay, "{letter}");
    }
}

fn commands(view: &mut View) -> Vec<String> {
    let lines = view.table(200, 100);
    lines[1..].iter().map(|line| line.split_whitespace().nth(1).unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_is_busy_is_on_top_and_keys_change_the_order() {
    let mut view = view();
    assert_eq!(commands(&mut view), ["nginx", "curl", "adit"]);
    press(&mut view, "r");
    assert_eq!(commands(&mut view), ["curl", "adit", "nginx"], "the others are as they were");
    press(&mut view, "r");
    view.sort_by("command").unwrap();
    press(&mut view, "rr");
    assert_eq!(commands(&mut view), ["adit", "curl", "nginx"]);
    for _ in 0..By::Process.columns().len() {
        view.handle_key(Key::Right);
    }
    assert_eq!(commands(&mut view), ["adit", "curl", "nginx"], "once around");
    assert!(view.sort_by("nothing").unwrap_err().starts_with("pid, command"));
}

#[test]
fn a_filter_is_typed_kept_and_taken_back() {
    let mut view = view();
    press(&mut view, "/CURx");
    view.handle_key(Key::Backspace);
    view.handle_key(Key::Enter);
    assert_eq!(commands(&mut view), ["curl"]);
    assert_eq!(view.filter(), "CUR");
    press(&mut view, "/zz");
    assert!(view.table(80, 10)[1].contains("nothing fits the filter \"zz\""));
    // Letters that are commands elsewhere are letters here.
    press(&mut view, "q");
    view.handle_key(Key::Escape);
    assert_eq!(commands(&mut view), ["curl"], "the one before");
    press(&mut view, "/");
    view.handle_key(Key::Enter);
    assert_eq!(commands(&mut view).len(), 3);
    press(&mut view, "/curl");
    view.handle_key(Key::Enter);
    view.handle_key(Key::Escape);
    assert_eq!((commands(&mut view).len(), view.filter()), (3, ""), "also one that was kept");
    assert_eq!(view.handle_key(Key::Letter('q')), After::Leave);
    assert_eq!(view.handle_key(Key::Interrupt), After::Interrupted);
}

#[test]
fn a_filter_looks_at_names_and_addresses_and_not_at_figures_and_the_sums_of_all_are_told_as_such() {
    let mut view = view_of(&[Record { sent: 17_001, ..connection(1, 3, "curl") }, connection(2, 20, "nginx")]);
    assert!(screen(&mut view, 120, 24)[1].starts_with("2 open; "));
    press(&mut view, "2");
    for (typed, lines) in [("/17K", 0), ("/17", 0), ("/40002", 1), ("/:443", 2), ("/out", 2)] {
        press(&mut view, typed);
        view.handle_key(Key::Enter);
        view.arrange();
        assert_eq!(view.order.len(), lines, "{typed}");
        assert!(screen(&mut view, 120, 24)[1].starts_with("of the whole machine: 2 open; "), "{typed}");
        view.handle_key(Key::Escape);
    }
}

#[test]
fn a_remote_is_found_by_its_port_as_an_address_has_it() {
    let mut view = View::new(By::Remote, ":443", Duration::ZERO);
    view.look(look_at(&busy(), true));
    let table = view.table(80, 10);
    assert!(table.len() == 2 && table[1].contains("10.0.0.1"), "{table:?}");
    let mut view = View::new(By::Remote, "10.0.0.1:44", Duration::ZERO);
    view.look(look_at(&busy(), true));
    assert_eq!(view.table(80, 10).len(), 2);
}

#[test]
fn a_pause_holds_what_was_seen_in_every_view_order_and_filter_until_it_is_ended() {
    let mut view = view();
    press(&mut view, "p");
    // Whatever comes meanwhile.
    for keys in ["2", ">", "<", "r", "3", "1", "2", "/4000", "G"] {
        press(&mut view, keys);
        view.look(look_at(&many(50), true));
        assert!(view.is_paused(), "{keys}");
        view.handle_key(Key::Enter);
    }
    for key in [Key::Tab, Key::BackTab, Key::PageDown, Key::Home, Key::Escape] {
        view.handle_key(key);
        assert!(view.is_paused(), "{key:?}");
    }
    press(&mut view, "/");
    view.handle_key(Key::Enter);
    assert_eq!(view.by, By::Connection);
    view.arrange();
    assert_eq!(view.order.len(), 3, "the connections of that moment, though they were not on the screen then");
    assert!(screen(&mut view, 80, 24)[0].starts_with("adit top PAUSED (p goes on): connections"));
    assert_eq!(view.handle_key(Key::Letter(' ')), After::GoOn);
    view.look(look_at(&many(50), true));
    view.arrange();
    assert!(!view.is_paused() && view.order.len() == 50);
}

#[test]
fn the_screen_is_filled_and_never_wider_or_longer_than_it_is() {
    for records in [many(200), busy(), Vec::new()] {
        let mut view = view_of(&records);
        for (width, height) in [(80, 24), (20, 8), (200, 60), (10, 3), (1, 1), (80, 24)] {
            for key in ['1', '2', '3', '?', '?'] {
                view.handle_key(Key::Letter(key));
                let lines = screen(&mut view, width, height);
                assert_eq!(lines.len(), height, "{lines:#?}");
                assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}x{height}: {lines:#?}");
            }
        }
    }
}

#[test]
fn more_lines_than_there_is_room_for_are_reached_by_keys_and_the_foot_says_how_many_are_hidden() {
    let mut view = view_of(&many(100));
    view.sort_by("pid").unwrap();
    press(&mut view, "rr");
    let first = |view: &mut View| {
        let lines = screen(view, 80, 24);
        let titles = lines.iter().position(|line| line.contains("COMMAND")).unwrap();
        (lines[titles + 1].split_whitespace().next().unwrap().to_owned(), lines[23].clone())
    };
    let (top, foot) = first(&mut view);
    assert!(top == "1100" && foot.ends_with("1–19 of 100, 81 hidden") && foot.starts_with("1 2 3 view"), "{foot}");
    assert!(foot.contains("q quit"), "{foot}");
    view.handle_key(Key::Down);
    assert_eq!(first(&mut view).0, "1099");
    view.handle_key(Key::PageDown);
    assert_eq!(first(&mut view).0, "1081", "one line of the page before stays");
    view.handle_key(Key::End);
    let (top, foot) = first(&mut view);
    assert!(top == "1019" && foot.ends_with("82–100 of 100, 81 hidden"), "{top} {foot}");
    view.handle_key(Key::Down);
    assert_eq!(first(&mut view).0, "1019", "there is nothing below");
    view.handle_key(Key::PageUp);
    view.handle_key(Key::Up);
    assert_eq!(first(&mut view).0, "1038");
    // What is seen meanwhile does not throw it back, another order does.
    view.look(look_at(&many(100), true));
    assert_eq!(first(&mut view).0, "1038");
    press(&mut view, "r");
    assert_eq!(first(&mut view).0, "1001");
    // Fewer lines than where one was.
    view.handle_key(Key::End);
    view.look(look_at(&busy(), true));
    let (top, foot) = first(&mut view);
    assert!(top == "1" && !foot.contains("hidden"), "{top} {foot}");
}

#[test]
fn what_is_not_seen_is_said_in_lines_that_fit_and_in_full_on_the_page_of_help() {
    let reason = Obstacle { message: "CAP_BPF is missing, ".repeat(6), hint: "sudo setcap ".repeat(9) };
    let missing = vec!["connections that begin and end between two looks", "failed connections and their errors"];
    let way = Way { source: "sock_diag", missing, reason: Some(reason), ..Way::default() };
    let mut view = view();
    let text: Vec<String> = view.draw(&way, 80, 24).iter().map(|line| plain(line)).collect();
    for word in ["polling, as CAP_BPF is missing", "not seen: connections that begin", "hint: sudo", "(? shows all)"] {
        assert!(text.iter().any(|line| line.contains(word)), "{word}\n{text:#?}");
    }
    assert!(text[0].contains("; seen by polling") && text[1].ends_with("– failed"), "{text:#?}");
    press(&mut view, "?");
    let page = view.draw(&way, 80, 200).join(" ").replace("   ", " ");
    assert!(page.contains("failed connections and their errors") && page.contains("SENT: all bytes"), "{page}");
    view.handle_key(Key::Escape);
    assert!(view.draw(&way, 80, 24)[0].starts_with("adit top: processes"));
}

#[test]
fn keys_that_come_together_move_the_page_of_help_no_further_than_its_end() {
    let way = Way { source: "sock_diag", ..Way::default() };
    let text = |view: &mut View| view.draw(&way, 80, 12).join("\n");
    let mut view = view();
    press(&mut view, "?G");
    let end = text(&mut view);
    // Nothing is drawn in between.
    press(&mut view, "GjjG");
    view.handle_key(Key::End);
    view.handle_key(Key::Down);
    view.handle_key(Key::PageDown);
    assert_eq!(text(&mut view), end);
}

#[test]
fn what_a_poll_cannot_see_is_unknown_and_no_zero() {
    let mut view = View::new(By::Process, "", SECOND);
    let mut records = busy();
    records.truncate(1);
    records.extend([connection(8, 0, ""), connection(9, 0, "")]);
    view.look(look_at(&records, false));
    view.sort_by("open").unwrap();
    press(&mut view, "rr");
    let lines = view.table(200, 10);
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Those of processes that are not known stand together, and are not left out.
    assert_eq!(cells(&lines[1])[..7], ["–", "(not", "known)", "2", "–", "–", "–"], "{lines:#?}");
    assert_eq!(cells(&lines[2])[..6], ["3", "curl", "1", "1", "0", "–"], "{lines:#?}");
    press(&mut view, "3");
    assert_eq!(cells(&view.table(200, 10)[1])[..6], ["10.0.0.1", "443", "out", "3", "3", "–"]);
}

#[test]
fn without_a_process_that_is_known_it_is_said_where_to_look() {
    let mut view = view_of(&[connection(8, 0, ""), connection(9, 0, "")]);
    let says = |view: &mut View| screen(view, 80, 24).iter().any(|line| line.contains("2 shows the connections"));
    assert!(says(&mut view));
    press(&mut view, "2");
    assert!(!says(&mut view));
    assert!(!says(&mut view_of(&busy())));
}

#[test]
fn all_views_count_bytes_alike_from_the_beginning_of_a_connection() {
    let old = Record { seen_late: true, sent: 3_000, ..connection(1, 7, "old") };
    let mut table = Table::default();
    table.handle_record(SECOND, &old, None);
    let look = Look {
        connections: table.connections().cloned().collect(),
        processes: table.processes().cloned().collect(),
        remotes: table.remotes().cloned().collect(),
        ..Look::default()
    };
    let mut view = View::new(By::Process, "", Duration::ZERO);
    view.look(look);
    for key in ['1', '2', '3'] {
        view.handle_key(Key::Letter(key));
        let table = view.table(200, 10);
        assert!(table[1].contains(" 2.9K "), "{table:#?}");
    }
}

#[test]
fn what_a_stranger_named_does_not_command_the_terminal() {
    let mut view = view();
    view.rows = vec![view.rows[0].clone()];
    view.rows[0][11] = Cell::Text("cu\x1b]0;pwn\x07\u{202e}rl".into());
    view.is_stale = true;
    let text = view.table(200, 10).join("\n");
    assert!(text.contains("cu\u{fffd}]0;pwn\u{fffd}\u{fffd}rl"), "{text:?}");
    press(&mut view, "/\u{9b}31m");
    assert!(!screen(&mut view, 80, 24).join("").contains('\u{9b}'));
}

#[test]
fn a_narrow_screen_does_without_what_says_least_and_keeps_the_forward_and_the_keys() {
    let mut view = view_of(&[connection(1, 3_000_000, "a-long-command"), connection(2, 20, "nginx")]);
    let at = view.rows.iter().position(|row| row[1].text() == "a-long-command").unwrap();
    let titles = |width: usize, view: &mut View| view.table(width, 10)[0].clone();
    assert!(titles(200, &mut view).contains("RETRANS") && titles(200, &mut view).contains("PLACE"));
    // Without a forward it makes room for the others.
    assert!(!titles(80, &mut view).contains("FORWARD"), "{}", titles(80, &mut view));
    view.rows[at][10] = Cell::Text("database".into());
    view.layout.forwards = true;
    let narrow = view.table(80, 10);
    assert!(narrow[0].contains("FORWARD") && !narrow[0].contains("RETRANS"), "{narrow:#?}");
    let line = narrow.iter().find(|line| line.contains("a-long-command")).unwrap();
    assert!(line.trim_end().ends_with("database"), "{narrow:#?}");
    // What is sorted by stays.
    view.sort_by("retrans").unwrap();
    assert!(titles(60, &mut view).contains("RETRANS"), "{}", titles(60, &mut view));
    let screen = screen(&mut view, 80, 24);
    assert!(screen.last().unwrap().ends_with("q quit"), "{screen:#?}");
}

#[test]
fn columns_keep_their_places_while_figures_change() {
    let mut view = view();
    let titles = |view: &mut View| screen(view, 80, 24).into_iter().find(|line| line.contains("COMMAND")).unwrap();
    let before = titles(&mut view);
    let mut wide = busy();
    wide[0].sent = 900_000_000_000;
    view.look(look_at(&wide, true));
    let wider = titles(&mut view);
    view.look(look_at(&busy(), true));
    assert_eq!(titles(&mut view), wider, "it is not given back at once");
    assert!(before.split_whitespace().eq(wider.split_whitespace()), "{before}\n{wider}");
    // A forward that was there once has its column for as long as the view is.
    assert!(!before.contains("FORWARD"));
    let status = serde_json::json!({ "services": [{ "name": "db", "entrances": ["127.0.0.1:5432"] }] });
    view.look(Look { uses: Uses::of_daemon(&status), ..look_at(&busy(), true) });
    assert!(titles(&mut view).contains("FORWARD"));
    view.look(look_at(&busy(), true));
    assert!(titles(&mut view).contains("FORWARD"));
}

#[test]
fn the_column_that_is_sorted_by_is_marked_on_the_screen_and_its_name_stays_as_it_is() {
    let mut view = view();
    let lines = view.draw(&kernel(), 80, 24);
    assert!(lines[0].contains("processes by RATE;"), "{}", lines[0]);
    assert!(lines.iter().any(|line| line.contains("\x1b[0;1mRATE\x1b[0;7m")), "{lines:#?}");
    assert!(view.table(80, 10)[0].split_whitespace().any(|title| title == "RATE"));
}

#[test]
fn the_first_line_says_for_which_columns_there_is_no_room_by_their_names_or_how_many() {
    let mut view = view();
    assert!(!screen(&mut view, 200, 24)[0].contains("no room"));
    let first = screen(&mut view, 80, 24)[0].clone();
    let titles =
        |view: &mut View, width| screen(view, width, 24).into_iter().find(|line| line.contains("PID")).unwrap();
    let (_, hidden) = first.split_once("; no room for ").unwrap_or_else(|| panic!("{first}"));
    let shown = titles(&mut view, 80);
    for column in By::Process.columns().iter().filter(|column| column.title != "FORWARD") {
        let is_shown = shown.split_whitespace().any(|title| title == column.title);
        let is_hidden = hidden.split(", ").any(|title| title == column.title);
        assert!(is_shown != is_hidden, "{} {first}\n{shown}", column.title);
    }
    for width in [46, 60] {
        let first = screen(&mut view, width, 24)[0].clone();
        assert!(first.ends_with(" columns hidden"), "{first}");
    }
    let narrow = screen(&mut view, 40, 24)[0].clone();
    assert!(narrow.ends_with(" hidden") && !narrow.contains("column"), "{narrow}");
    press(&mut view, "p");
    assert!(screen(&mut view, 70, 24)[0].starts_with("adit top PAUSED (p goes on)"));
}

#[test]
fn what_had_no_room_is_said_with_the_option_that_makes_more() {
    let mut view = view();
    let says = |view: &mut View, text: &str| screen(view, 120, 24).iter().any(|line| line.contains(text));
    assert!(!says(&mut view, "--max-connections"));
    let way = Way { capacity: 64, ..kernel() };
    let counts = Counts { map_full: 7, ..Counts::default() };
    view.look(Look { counts, ..look_at(&busy(), true) });
    let lines = view.draw(&way, 120, 24).join("\n");
    assert!(
        lines.contains("7 connections found no room in the kernel and are not seen: it has 128 places;"),
        "{lines}"
    );
    assert!(lines.contains("--max-connections 128 makes 256"), "{lines}");
    let overflow = ::monitor::table::Overflow { remotes: 9, ..Default::default() };
    view.look(Look { overflow, ..look_at(&busy(), true) });
    assert!(says(&mut view, "9 connections, processes or remotes found no line here"));
}

#[test]
fn the_same_address_of_two_network_namespaces_is_marked_in_the_one_that_is_not_ours() {
    let to = |number, netns| Record {
        netns,
        remote: SocketAddr::from((Ipv4Addr::LOCALHOST, 80)),
        ..connection(number, 7, "curl")
    };
    let mut view = View::new(By::Remote, "", SECOND);
    view.look(Look { netns: Some(5), ..look_at(&[to(1, 5), to(2, 6)], true) });
    let table = view.table(200, 10);
    let mut first: Vec<&str> = table[1..].iter().filter_map(|line| line.split_whitespace().next()).collect();
    first.sort_unstable();
    assert_eq!(first, ["127.0.0.1", "127.0.0.1%6"], "{table:#?}");
}

#[test]
fn a_table_has_ages_only_where_some_are_known_and_a_screen_always() {
    let by_age = |ages: [bool; 2], sort: Option<&str>| {
        let mut view = View::new(By::Connection, "", SECOND);
        sort.map_or(Ok(()), |column| view.sort_by(column)).unwrap();
        let of = |at: usize| Record { seen_late: !ages[at], ..connection(u16::try_from(at).unwrap(), 3, "curl") };
        view.look(look_at(&[of(0), of(1)], true));
        let table = view.table(usize::MAX, 10);
        let titled = screen(&mut view, 200, 24).iter().any(|line| line.contains("AGE"));
        assert!(titled, "a screen keeps its columns");
        let words: Vec<usize> = table.iter().map(|line| line.split_whitespace().count()).collect();
        // There are no forwards.
        assert_eq!(words, [words[0], words[0] - 1, words[0] - 1], "{table:#?}");
        table[0].contains("AGE")
    };
    assert!(!by_age([false, false], None));
    assert!(by_age([true, false], None));
    assert!(by_age([false, false], Some("age")), "it was asked for");
    assert!(!view().table(usize::MAX, 10).is_empty(), "processes have no age");
}

#[test]
fn where_nothing_is_open_it_is_said_and_an_unknown_place_has_a_mark() {
    let mut view = View::new(By::Connection, "", SECOND);
    view.look(look_at(&[], true));
    let lines = screen(&mut view, 100, 24);
    assert!(lines.iter().any(|line| line == "no connection is open now"), "{lines:#?}");
    assert!(lines[1].contains("in 12s: "), "{lines:#?}");
    let records = busy();
    let mut look = look_at(&records, true);
    for process in &mut look.processes {
        process.place = None;
    }
    let mut view = View::new(By::Process, "", SECOND);
    view.look(look);
    let lines = screen(&mut view, 200, 24);
    assert!(lines.iter().any(|line| line.contains("nginx") && line.ends_with('–')), "{lines:#?}");
}

#[test]
fn what_is_sorted_by_is_whole_on_a_very_narrow_screen() {
    let of = |number| Record { sent: 500_000, ..connection(number, 100_000, "a-long-command") };
    for (by, width, who) in [(By::Connection, 40, "REMOTE"), (By::Remote, 32, "REMOTE"), (By::Process, 24, "COMMAND")] {
        let mut view = View::new(by, "", SECOND);
        view.look(look_at(&[of(1), of(2)], true));
        let lines = screen(&mut view, width, 24);
        let titles =
            lines.iter().find(|line| line.trim_end().ends_with("RATE")).unwrap_or_else(|| panic!("{lines:#?}"));
        assert!(titles.contains(who), "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.contains("K/s")) && !lines.iter().any(|line| line.ends_with('…')),
            "{lines:#?}"
        );
    }
}

#[test]
fn what_programs_in_the_kernel_do_not_see_takes_one_line_and_what_had_no_room_has_its_own() {
    let missing = vec!["one thing that is not seen, with many words to say so"; 5];
    let way = Way { missing, ..kernel() };
    let mut view = view();
    let notes = |view: &mut View, way: &Way| {
        let lines = view.draw(way, 80, 24);
        lines.into_iter().skip(2).take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let said = notes(&mut view, &way);
    assert!(said.len() == 1 && said[0].ends_with("… (? shows all)"), "{said:#?}");
    let poll = Way { source: "sock_diag", ..way.clone() };
    assert!(notes(&mut view, &poll).len() > 1);
    view.note("something else");
    assert!(notes(&mut view, &way).len() > 1);
}

#[test]
fn a_filter_that_nothing_fits_leaves_the_columns_where_they_are() {
    let mut view = view_of(&[connection(1, 3_000_000, "a-long-command"), connection(2, 20, "nginx")]);
    let titles = |view: &mut View| screen(view, 80, 24).into_iter().find(|line| line.contains("COMMAND")).unwrap();
    let before = titles(&mut view);
    for key in "/no such thing".chars() {
        view.handle_key(Key::Letter(key));
    }
    assert_eq!(titles(&mut view), before);
    let screen = screen(&mut view, 80, 24);
    assert!(screen.iter().any(|line| line.starts_with("nothing fits the filter")), "{screen:#?}");
    assert!(!screen.iter().any(|line| line.contains("nginx")), "{screen:#?}");
}

#[test]
fn ages_that_nobody_knows_make_room_first_and_each_view_is_turned_round_by_itself() {
    let late = |number, pid| Record { seen_late: true, ..connection(number, pid, "a-long-command") };
    let mut view = view_of(&[late(1, 3_000_000), late(2, 20)]);
    let titles = |view: &mut View| screen(view, 100, 24).into_iter().find(|line| line.contains("COMMAND")).unwrap();
    view.handle_key(Key::Letter('2'));
    assert!(!titles(&mut view).contains("AGE") && titles(&mut view).contains("STATE"), "{}", titles(&mut view));
    view.handle_key(Key::Letter('r'));
    assert!(screen(&mut view, 100, 24)[0].contains("turned round"));
    view.handle_key(Key::Letter('1'));
    assert!(!screen(&mut view, 100, 24)[0].contains("turned round"));
    // With one age they have their column as before.
    let mut view = view_of(&[late(1, 3_000_000), connection(2, 20, "nginx")]);
    view.handle_key(Key::Letter('2'));
    assert!(titles(&mut view).contains("AGE"), "{}", titles(&mut view));
}
