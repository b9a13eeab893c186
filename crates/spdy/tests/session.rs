//! What a session does, one behaviour a test.

use std::time::{Duration, Instant};

use spdy::{
    Event, GoAwayStatus, Health, OpenError, ReadState, ResetStatus, Session, Settings, StreamId, Violation, Written,
};

#[path = "support/ends.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod ends;

use ends::{Ends, events, output};

const KIB: usize = 1024;

/// A stream that the client opened and the server answered.
fn stream(ends: &mut Ends) -> StreamId {
    let id = ends.client.open(&[("port", "80")], false).expect("there is room");
    ends.run();
    ends.server.reply(id, &[], false);
    ends.run();
    events(&mut ends.client);
    events(&mut ends.server);
    id
}

fn data_frame(stream: u32, fin: bool, length: usize) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.extend(u32::try_from(length).expect("24 bits").to_be_bytes());
    frame[4] = u8::from(fin);
    frame.resize(8 + length, 7);
    frame
}

fn read(session: &mut Session, id: StreamId) -> (ReadState, Vec<u8>) {
    let mut into = Vec::new();
    let state = session.read(id, &mut into);
    (state, into)
}

/// The frames in `wire` as stream (0 for control), FIN and length.
fn frames(mut wire: &[u8]) -> Vec<(u32, bool, usize)> {
    let mut got = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk::<8>() {
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        got.push((if head[0] & 0x80 == 0 { id } else { 0 }, head[4] & 1 == 1, length));
        wire = &rest[length..];
    }
    assert!(wire.is_empty(), "whole frames only");
    got
}

#[test]
fn a_stream_is_opened_answered_used_and_ended_by_both() {
    let mut ends = Ends::new();
    let id = ends.client.open(&[("streamType", "data")], false).unwrap();
    assert_eq!(ends.client.write(id, b"question"), Written::Taken(8), "before any answer");
    ends.client.finish(id);
    ends.run();
    let got = events(&mut ends.server);
    assert!(matches!(&got[0], Event::Opened { id: opened, headers, fin: false }
        if *opened == id && headers.get("streamtype") == Some("data")));
    assert_eq!(got[1..], [Event::Readable(id)]);
    ends.server.reply(id, &[("a", "b")], false);
    assert_eq!(read(&mut ends.server, id), (ReadState::Data, b"question".to_vec()));
    assert_eq!(read(&mut ends.server, id).0, ReadState::Finished);
    ends.server.write(id, b"answer");
    ends.server.finish(id);
    ends.server.release(id);
    ends.run();
    assert_eq!(ends.server.open_streams(), 0);
    let got = events(&mut ends.client);
    assert!(matches!(&got[0], Event::Replied { headers, .. } if headers.get("a") == Some("b")));
    assert_eq!(got[1..], [Event::Readable(id)]);
    assert_eq!(read(&mut ends.client, id), (ReadState::Data, b"answer".to_vec()));
    assert_eq!(read(&mut ends.client, id).0, ReadState::Finished);
    ends.client.release(id);
    assert_eq!(ends.client.open_streams(), 0);
    assert!(!ends.client.has_output(), "a stream that ended is not reset");
    assert_eq!(read(&mut ends.client, id).0, ReadState::Gone);
}

#[test]
fn half_closing_one_way_leaves_the_other_open() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.server.finish(id);
    ends.run();
    assert_eq!(read(&mut ends.client, id).0, ReadState::Finished);
    assert_eq!(ends.client.write(id, b"still here"), Written::Taken(10));
    ends.run();
    assert_eq!(read(&mut ends.server, id), (ReadState::Data, b"still here".to_vec()));
    assert_eq!(read(&mut ends.server, id).0, ReadState::Pending);
}

#[test]
fn readable_is_told_once_until_it_is_read_and_again_for_an_end_behind_data() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    for _ in 0..3 {
        ends.server.write(id, b"x");
        ends.run();
    }
    assert_eq!(events(&mut ends.client), [Event::Readable(id)]);
    assert_eq!(read(&mut ends.client, id), (ReadState::Data, b"xxx".to_vec()));
    assert_eq!(events(&mut ends.client), []);
    ends.server.write(id, b"y");
    ends.server.finish(id);
    ends.run();
    assert_eq!(events(&mut ends.client), [Event::Readable(id)]);
    assert_eq!(read(&mut ends.client, id).0, ReadState::Data);
    assert_eq!(events(&mut ends.client), [Event::Readable(id)]);
    assert_eq!(read(&mut ends.client, id).0, ReadState::Finished);
    assert_eq!(events(&mut ends.client), []);
}

#[test]
fn data_in_front_of_a_reset_is_read_before_the_reset() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.server.write(id, b"error text");
    ends.run();
    ends.server.reset(id, ResetStatus::Cancel);
    ends.run();
    assert_eq!(read(&mut ends.client, id), (ReadState::Data, b"error text".to_vec()));
    assert_eq!(read(&mut ends.client, id).0, ReadState::Reset(ResetStatus::Cancel));
    assert_eq!(ends.client.write(id, b"more"), Written::Closed);
    ends.client.release(id);
    assert!(!ends.client.has_output(), "a reset is not answered by a reset");
    assert_eq!((ends.client.open_streams(), ends.server.open_streams()), (0, 0));
}

#[test]
fn reading_stops_when_one_stream_holds_too_much_and_goes_on_when_it_is_read() {
    let mut ends = Ends::new();
    let (slow, other) = (stream(&mut ends), stream(&mut ends));
    let now = ends.now;
    let client = &mut ends.client;
    client.handle_input(now, &data_frame(slow.get(), false, 256 * KIB)).unwrap();
    assert!(client.wants_input(), "at the limit");
    client.handle_input(now, &data_frame(slow.get(), false, 1)).unwrap();
    assert!(!client.wants_input() && client.blocking_streams() == 1);
    // What was read off the socket already is taken all the same.
    client.handle_input(now, &data_frame(other.get(), false, 300 * KIB)).unwrap();
    client.handle_input(now, &data_frame(slow.get(), true, 300 * KIB)).unwrap();
    assert_eq!(client.blocking_streams(), 2);
    assert_eq!(read(client, slow).1.len(), 556 * KIB + 1);
    assert_eq!(client.blocking_streams(), 1);
    client.release(other);
    assert!(client.wants_input());
}

#[test]
fn a_stalled_stream_that_is_reset_or_released_stalls_no_longer() {
    for leave in [Session::release as fn(&mut Session, StreamId), |s, id| s.reset(id, ResetStatus::Cancel)] {
        for fin in [false, true] {
            let mut ends = Ends::new();
            let id = stream(&mut ends);
            ends.client.write(id, b"under way");
            ends.client.finish(id);
            ends.client.handle_input(ends.now, &data_frame(id.get(), fin, 300 * KIB)).unwrap();
            assert!(!ends.client.wants_input());
            leave(&mut ends.client, id);
            assert!(ends.client.wants_input());
            ends.run();
            assert_eq!(ends.client.open_streams(), 0);
        }
    }
}

#[test]
fn a_data_frame_of_16_mib_arrives_in_pieces_whole() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    let wire = data_frame(id.get(), true, 0x00ff_ffff);
    let mut got = 0;
    let mut into = Vec::new();
    for piece in wire.chunks(100 * KIB) {
        ends.client.handle_input(ends.now, piece).unwrap();
        while ends.client.read(id, &mut into) == ReadState::Data {
            got += into.len();
            into.clear();
        }
    }
    assert_eq!(got, 0x00ff_ffff);
    assert_eq!(read(&mut ends.client, id).0, ReadState::Finished);
}

#[test]
fn reading_swaps_buffers_instead_of_copying() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.handle_input(ends.now, &data_frame(id.get(), false, 1000)).unwrap();
    let mut mine = Vec::with_capacity(5000);
    let memory = mine.as_ptr();
    assert_eq!(ends.client.read(id, &mut mine), ReadState::Data);
    assert_eq!(mine.len(), 1000);
    mine.clear();
    ends.client.handle_input(ends.now, &data_frame(id.get(), false, 5000)).unwrap();
    assert_eq!(ends.client.read(id, &mut mine), ReadState::Data);
    assert_eq!(mine.as_ptr(), memory, "the buffer came back filled");
}

#[test]
fn a_full_queue_takes_no_more_and_says_when_it_has_half_its_room_again() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    let client = &mut ends.client;
    assert_eq!(client.write(id, &vec![1; 300 * KIB]), Written::Taken(256 * KIB));
    assert_eq!(client.write(id, b"x"), Written::Taken(0));
    let mut out = Vec::new();
    client.poll_transmit(&mut out, 100 * KIB);
    assert_eq!(events(client), []);
    client.poll_transmit(&mut out, 100 * KIB);
    assert_eq!(events(client), [Event::Writable(id)]);
    assert!(matches!(client.write(id, b"x"), Written::Taken(1)));
    output(client);
    assert_eq!(events(client), [], "told once");
}

#[test]
fn a_writer_that_waits_for_room_is_woken_by_a_reset() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.write(id, &vec![1; 300 * KIB]);
    ends.server.reset(id, ResetStatus::Cancel);
    let wire = output(&mut ends.server);
    ends.client.handle_input(ends.now, &wire).unwrap();
    assert_eq!(events(&mut ends.client), [Event::Writable(id), Event::Readable(id)]);
    assert_eq!(ends.client.write(id, b"x"), Written::Closed);
    assert!(!ends.client.has_output(), "what was queued is dropped");
}

#[test]
fn streams_take_turns_of_16_kib_and_control_frames_go_first() {
    let mut ends = Ends::new();
    let (a, b) = (stream(&mut ends), stream(&mut ends));
    ends.client.write(a, &[1; 40 * KIB]);
    ends.client.write(b, &[2; 20 * KIB]);
    let c = ends.client.open(&[], false).unwrap();
    ends.client.write(c, b"small");
    ends.client.finish(c);
    let sent: Vec<_> = frames(&output(&mut ends.client)).into_iter().map(|(id, ..)| id).collect();
    let [a, b, c] = [a.get(), b.get(), c.get()];
    assert_eq!(sent, [0, a, b, c, a, b, a]);
}

#[test]
fn whole_frames_fill_the_room_they_are_given() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.write(id, &[1; 100 * KIB]);
    let mut total = 0;
    for limit in [1024, 2000, 16 * KIB, 16 * KIB + 1, 100 * KIB] {
        let mut out = b"before".to_vec();
        let n = ends.client.poll_transmit(&mut out, limit);
        assert_eq!(out.len(), 6 + n);
        assert!(n <= limit && n > 0, "{n} of {limit}");
        total += frames(&out[6..]).into_iter().map(|(.., length)| length).sum::<usize>();
    }
    assert_eq!(total, 100 * KIB);
    assert_eq!(ends.client.poll_transmit(&mut Vec::new(), 1024), 0);
}

#[test]
fn a_control_frame_longer_than_the_room_goes_alone() {
    let mut ends = Ends::new();
    let mut noise = 1u32;
    let long: String = (0..4000)
        .map(|_| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + u8::try_from((noise >> 24) % 90).unwrap())
        })
        .collect();
    ends.client.open(&[("noise", &long)], false).unwrap();
    ends.client.open(&[], false).unwrap();
    let mut out = Vec::new();
    assert_eq!(ends.client.poll_transmit(&mut out, 1023), 0);
    assert!(ends.client.poll_transmit(&mut out, 1024) > 3000);
    assert_eq!(frames(&out).len(), 1);
    ends.server.handle_input(ends.now, &out).unwrap();
    ends.run();
    assert_eq!(ends.server.open_streams(), 2);
}

#[test]
fn data_for_a_stream_that_is_gone_is_discarded_and_for_one_that_never_was_is_answered() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.release(id);
    output(&mut ends.client);
    ends.client.handle_input(ends.now, &data_frame(id.get(), false, 100)).unwrap();
    assert_eq!(ends.client.discarded_bytes(), 100);
    assert!(!ends.client.has_output());
    ends.client.handle_input(ends.now, &data_frame(99, false, 5)).unwrap();
    assert_eq!(output(&mut ends.client), [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 2]);
    assert_eq!(events(&mut ends.client), []);
}

#[test]
fn a_stream_released_in_the_middle_of_a_data_frame_loses_the_rest_of_it_only() {
    let mut ends = Ends::new();
    let (gone, stays) = (stream(&mut ends), stream(&mut ends));
    let mut wire = data_frame(gone.get(), false, 1000);
    wire.extend(data_frame(stays.get(), false, 10));
    ends.client.handle_input(ends.now, &wire[..500]).unwrap();
    ends.client.release(gone);
    ends.client.handle_input(ends.now, &wire[500..]).unwrap();
    assert_eq!(read(&mut ends.client, stays).1.len(), 10);
    assert_eq!(ends.client.discarded_bytes(), 508);
}

#[test]
fn data_behind_the_end_breaks_its_stream_and_not_the_session() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.handle_input(ends.now, &data_frame(id.get(), true, 3)).unwrap();
    ends.client.handle_input(ends.now, &data_frame(id.get(), false, 3)).unwrap();
    assert_eq!(read(&mut ends.client, id), (ReadState::Data, vec![7; 3]));
    assert_eq!(read(&mut ends.client, id).0, ReadState::Reset(ResetStatus::StreamAlreadyClosed));
    ends.run();
    assert_eq!(read(&mut ends.server, id).0, ReadState::Reset(ResetStatus::StreamAlreadyClosed));
}

#[test]
fn a_released_stream_whose_end_is_queued_still_sends_it() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.server.finish(id);
    ends.run();
    ends.client.write(id, &[1; 50 * KIB]);
    ends.client.finish(id);
    ends.client.release(id);
    assert_eq!(read(&mut ends.client, id).0, ReadState::Gone);
    assert_eq!(ends.client.open_streams(), 1);
    ends.run();
    assert_eq!(ends.client.open_streams(), 0);
    assert_eq!(read(&mut ends.server, id).1.len(), 50 * KIB);
    assert_eq!(read(&mut ends.server, id).0, ReadState::Finished);
}

#[test]
fn a_running_stream_that_is_released_is_cancelled() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    ends.client.write(id, b"dropped");
    ends.client.release(id);
    ends.run();
    assert_eq!(read(&mut ends.server, id), (ReadState::Reset(ResetStatus::Cancel), vec![]));
}

#[test]
fn a_client_takes_no_streams_and_goes_on() {
    let mut ends = Ends::new();
    let id = ends.server.open(&[("a", "b")], false).unwrap();
    assert_eq!(id.get(), 2);
    ends.run();
    assert_eq!(read(&mut ends.server, id).0, ReadState::Reset(ResetStatus::RefusedStream));
    assert_eq!(events(&mut ends.client), []);
    stream(&mut ends);
}

#[test]
fn streams_over_the_limit_are_refused_on_either_side() {
    let mut ends = Ends::with(
        Settings { max_streams: 3, ..Settings::client() },
        Settings { max_streams: 2, ..Settings::server() },
    );
    let ids: Vec<_> = (0..3).map(|_| ends.client.open(&[], false).unwrap()).collect();
    assert_eq!(ends.client.open(&[], false), Err(OpenError::TooMany));
    ends.run();
    assert_eq!(read(&mut ends.client, ids[2]).0, ReadState::Reset(ResetStatus::RefusedStream));
    ends.client.release(ids[2]);
    assert!(ends.client.open(&[], false).is_ok());
}

#[test]
fn opening_without_sending_is_bounded() {
    let mut client = Session::new(Settings::client(), Instant::now());
    let mut opened = 0;
    let error = loop {
        match client.open(&[("port", "80")], false) {
            Ok(id) => client.release(id),
            Err(error) => break error,
        }
        opened += 1;
    };
    assert_eq!(error, OpenError::TooMany);
    assert!((10_000..100_000).contains(&opened), "{opened}");
    output(&mut client);
    assert!(client.open(&[], false).is_ok());
}

#[test]
fn going_away_refuses_new_streams_and_leaves_running_ones() {
    let mut ends = Ends::new();
    let id = stream(&mut ends);
    let late = ends.client.open(&[], false).unwrap();
    ends.server.go_away(GoAwayStatus::Ok);
    ends.server.go_away(GoAwayStatus::Ok);
    ends.run();
    assert!(ends.client.is_going_away() && ends.server.is_going_away());
    assert!(events(&mut ends.client).contains(&Event::GoAway { last: id, status: GoAwayStatus::Ok }));
    assert_eq!(ends.client.open(&[], false), Err(OpenError::GoingAway));
    assert_eq!(ends.server.open(&[], false), Err(OpenError::GoingAway));
    assert_eq!(read(&mut ends.client, late).0, ReadState::Reset(ResetStatus::RefusedStream));
    ends.server.write(id, b"goes on");
    ends.run();
    assert_eq!(read(&mut ends.client, id).1, b"goes on");
}

#[test]
fn an_answer_with_an_end_ends_the_peers_half() {
    let mut ends = Ends::new();
    let id = ends.client.open(&[], false).unwrap();
    ends.run();
    ends.server.reply(id, &[], true);
    ends.server.reply(id, &[], true);
    ends.run();
    assert!(matches!(events(&mut ends.client).as_slice(), [Event::Replied { .. }, Event::Readable(_)]));
    assert_eq!(read(&mut ends.client, id).0, ReadState::Finished);
    assert_eq!(ends.server.write(id, b"x"), Written::Closed);
}

#[test]
fn a_stream_opened_with_fin_or_one_way_has_one_half_only() {
    let mut ends = Ends::new();
    let id = ends.client.open(&[], true).unwrap();
    assert_eq!(ends.client.write(id, b"x"), Written::Closed);
    let mut wire = output(&mut ends.client);
    wire[4] |= 2;
    ends.server.handle_input(ends.now, &wire).unwrap();
    assert!(matches!(events(&mut ends.server)[0], Event::Opened { fin: true, .. }));
    assert_eq!(read(&mut ends.server, id).0, ReadState::Finished);
    assert_eq!(ends.server.write(id, b"x"), Written::Closed);
    ends.server.release(id);
    assert!(ends.server.open_streams() == 0 && !ends.server.has_output());
}

#[test]
fn a_silent_peer_is_asked_and_then_dead() {
    let mut ends = Ends::new();
    let second = Duration::from_secs(1);
    assert_eq!(ends.client.poll_timeout(), ends.now + second * 20);
    assert_eq!(ends.client.handle_timeout(ends.now + second * 19), Health::Alive);
    assert!(!ends.client.has_output());
    assert_eq!(ends.client.handle_timeout(ends.now + second * 20), Health::Alive);
    assert_eq!(output(&mut ends.client).len(), 12);
    assert_eq!(ends.client.poll_timeout(), ends.now + second * 40);
    assert_eq!(ends.client.handle_timeout(ends.now + second * 40), Health::Dead);
}

#[test]
fn a_peer_that_answers_stays_alive_for_ever() {
    let mut ends = Ends::new();
    for _ in 0..1000 {
        ends.now = ends.client.poll_timeout();
        assert_eq!(ends.client.handle_timeout(ends.now), Health::Alive);
        ends.run();
    }
}

#[test]
fn floods_end_the_session() {
    let now = Instant::now();
    let frames: [(&[u8], &str); 6] = [
        (&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2], "PING frames"),
        (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0], "control frames"),
        (&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 1], "WINDOW_UPDATE frames"),
        (&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5], "frames for streams that are gone"),
        (&[0, 0, 0, 9, 0, 0, 0, 0], "frames for streams that never were"),
        (&[0, 0, 0, 3, 0, 0, 0, 0], "empty DATA frames"),
    ];
    for (frame, what) in frames {
        let mut client = Session::new(Settings::client(), now);
        for _ in 0..2 {
            client.open(&[], false).unwrap();
        }
        let many = frame.repeat(600_000);
        let outcome = many.chunks(64 * KIB).try_for_each(|chunk| client.handle_input(now, chunk));
        assert_eq!(outcome, Err(Violation::Flood { frames: what }));
        assert!(output(&mut client).len() < 3 << 20, "{what}");
    }
}

#[test]
fn a_server_ends_a_client_that_opens_and_resets_without_end() {
    let now = Instant::now();
    let mut client = Session::new(Settings::client(), now);
    let mut server = Session::new(Settings::server(), now);
    let outcome = (0..200_000).try_for_each(|_| {
        let id = client.open(&[], false).unwrap();
        client.release(id);
        let done = server.handle_input(now, &output(&mut client));
        while let Some(event) = server.poll_event() {
            if let Event::Opened { id, .. } = event {
                server.release(id);
            }
        }
        done
    });
    assert_eq!(outcome, Err(Violation::Flood { frames: "streams that come to nothing" }));
}

#[test]
fn a_hundred_thousand_streams_one_after_another_leave_nothing_behind() {
    let mut ends = Ends::new();
    let mut into = Vec::new();
    for n in 0..100_000u32 {
        let id = ends.client.open(&[("requestid", &n.to_string())], false).unwrap();
        ends.client.write(id, b"ping");
        ends.client.finish(id);
        ends.run();
        ends.server.reply(id, &[], false);
        ends.server.write(id, b"pong");
        ends.server.finish(id);
        ends.run();
        for end in [&mut ends.server, &mut ends.client] {
            into.clear();
            assert_eq!(end.read(id, &mut into), ReadState::Data);
            into.clear();
            assert_eq!(end.read(id, &mut into), ReadState::Finished);
            end.release(id);
            while end.poll_event().is_some() {}
        }
        if n % 1000 == 0 {
            ends.now += Duration::from_secs(1);
        }
    }
    for end in [&ends.client, &ends.server] {
        assert_eq!((end.open_streams(), end.blocking_streams(), end.has_output()), (0, 0, false));
        assert!(format!("{end:?}").len() < 10_000, "something is left: {end:?}");
    }
}

#[test]
fn two_thousand_streams_at_once_are_served_in_turn() {
    let mut ends = Ends::new();
    let ids: Vec<_> = (0..2000).map(|_| ends.client.open(&[("port", "80")], false).unwrap()).collect();
    for id in &ids {
        assert_eq!(ends.client.write(*id, &[3; 40_000]), Written::Taken(40_000));
        ends.client.finish(*id);
    }
    ends.run();
    for id in &ids {
        assert_eq!(read(&mut ends.server, *id).1, [3; 40_000]);
        assert_eq!(read(&mut ends.server, *id).0, ReadState::Finished);
    }
}
