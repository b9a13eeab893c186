//! An agent with a good token that breaks the protocol (S3, S4): its own session ends, nobody else's does.

use std::time::Duration;

use mux::ErrorCode;
use mux::frame::{FrameType, flags, put_frame};
use mux::headers::{AnswerHead, Timing};
use mux::message::{self, Register};
use testkit::raw;

use super::wire::{RawAgent, http};
use crate::support::{DEADLINE, Server, eventually};

/// A visitor's request that is under way, and the stream it came on.
macro_rules! visit {
    ($server:expr, $agent:expr, $name:expr, $body:expr) => {{
        let mut visitor = raw::Client::connect($server.public).await.unwrap();
        let head = raw::head("POST", &$server.host($name), "/", &[], Some($body));
        visitor.send(&head).await.unwrap();
        let (stream, open) = $agent.wire.opened().await;
        (visitor, stream, open)
    }};
}

/// The server is still there for others.
async fn others_are_served(server: &Server) {
    let mut other = RawAgent::with_token(server, &server.token("other"), "other").await.expect("the token is good");
    other.publish("other").await.expect("the name is free");
    let serve = async {
        let (stream, _) = other.wire.opened().await;
        other.wire.answer_text(stream, "fine").await.expect("the lane lives");
    };
    let (answer, ()) = tokio::join!(server.get("other", "/"), serve);
    assert_eq!(answer.text(), "fine");
}

/// The violator is gone, and it is on record.
async fn is_on_record(server: &Server, name: &str) {
    server.audited("protocol_violation").await;
    eventually(DEADLINE, "the violator's tunnel is offline", || async {
        (server.get(name, "/").await.status == 502).then_some(())
    })
    .await;
}

#[tokio::test]
async fn s3_a_window_beyond_its_cap_resets_the_stream_and_a_second_one_ends_the_lane() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let (mut first, stream, _) = visit!(server, agent, "app1", 10);
    agent.wire.send(FrameType::Window, 0, stream, &u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(agent.wire.reset_of(stream).await, ErrorCode::FlowControl);
    assert_eq!(first.response(false).await.unwrap().status, 502);
    let (_second, stream, _) = visit!(server, agent, "app1", 10);
    for _ in 0..2 {
        agent.wire.send(FrameType::Window, 0, stream, &0x7fff_ffff_u32.to_be_bytes()).await.unwrap();
    }
    agent.wire.ends_with(ErrorCode::FlowControl).await;
    is_on_record(&server, "app1").await;
    others_are_served(&server).await;
}

#[tokio::test]
async fn s3_data_beyond_the_credit_resets_the_stream() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    // The visitor reads nothing, so no further credit is due.
    let (visitor, stream, open) = visit!(server, agent, "app1", 10);
    agent.wire.answer(stream, 200, &[], false).await.unwrap();
    let mut sent = 0;
    let mut code = None;
    let patience = u64::from(open.credit) + (64 << 20);
    while sent < patience && code.is_none() {
        let mut frames = Vec::new();
        for _ in 0..64 {
            put_frame(&mut frames, FrameType::Data, 0, stream, &[0; 16_384]);
            sent += 16_384;
        }
        agent.wire.raw(&frames).await.unwrap();
        // The reset follows what was too much; everything else is passed over.
        while let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), agent.wire.read()).await {
            code = code.or(frame.unwrap().reset_code());
        }
    }
    assert_eq!(code, Some(ErrorCode::FlowControl), "{sent} bytes were taken");
    drop(visitor);
    others_are_served(&server).await;
}

#[tokio::test]
async fn s3_data_after_the_end_resets_the_stream_and_a_second_time_ends_the_lane() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    // A body that is not whole keeps the stream open behind the agent's END.
    let (mut first, stream, _) = visit!(server, agent, "app1", 10);
    agent.wire.answer_text(stream, "early").await.unwrap();
    assert_eq!(first.response(false).await.unwrap().text(), "early");
    agent.wire.send(FrameType::Data, 0, stream, b"late").await.unwrap();
    let (mut second, stream, _) = visit!(server, agent, "app1", 10);
    agent.wire.answer(stream, 200, &[("content-length", "5")], false).await.unwrap();
    let mut frames = Vec::new();
    put_frame(&mut frames, FrameType::Data, flags::END, stream, b"short");
    for _ in 0..3 {
        put_frame(&mut frames, FrameType::Data, 0, stream, b"late");
    }
    agent.wire.raw(&frames).await.unwrap();
    // Whatever becomes of the lane, the visitor gets no byte of what came late.
    let answer = second.response(false).await;
    assert!(answer.is_err() || answer.unwrap().text() == "short");
    others_are_served(&server).await;
}

#[tokio::test]
async fn s3_frames_over_their_cap_end_the_lane_by_their_header_alone() {
    for (kind, flag, length) in [
        (0x20, 0, 65_537_u32),
        (0x21, 0, 16_385),
        (0x21, flags::HEADERS, 65_537),
        (0x10, 0, 65_537),
        (0x23, 0, 5),
        (0x21, 0, u32::MAX),
    ] {
        let server = Server::start().await;
        let mut agent = RawAgent::publishing(&server, "app1").await;
        let stream = if kind == 0x10 { 0 } else { 2_u32 };
        let mut header = vec![1, kind, flag, 0];
        header.extend_from_slice(&stream.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        agent.wire.raw(&header).await.unwrap();
        let end = agent.wire.end().await;
        assert!(end.is_none_or(|(code, _)| matches!(code, ErrorCode::FrameSize | ErrorCode::Protocol)), "{kind:#x}");
        is_on_record(&server, "app1").await;
        if length == u32::MAX {
            others_are_served(&server).await;
        }
    }
}

#[tokio::test]
async fn s3_unknown_critical_frames_end_the_lane_and_unknown_optional_ones_do_not() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    agent.wire.raw(&[1, 0x45, 0xff, 0, 0, 0, 0, 9, 0, 0, 0, 3, 1, 2, 3]).await.unwrap();
    assert!(agent.register(http(2, "app2")).await.is_ok());
    agent.wire.raw(&[1, 0x24, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]).await.unwrap();
    agent.wire.ends_with(ErrorCode::Protocol).await;
    is_on_record(&server, "app1").await;
}

#[tokio::test]
async fn s3_every_other_broken_frame_ends_the_lane_and_only_it() {
    let server = Server::start().await;
    let token = server.token("acme");
    let frame = |kind: u8, flag: u8, stream: u32, payload: &[u8]| {
        let mut bytes = vec![1, kind, flag, 0];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    };
    let attempts: Vec<(&str, Vec<u8>)> = vec![
        ("another version", vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("reserved bits", frame(0x21, 0x80, 2, b"")),
        ("a reserved byte", vec![1, 0x21, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0]),
        ("data for a stream never opened", frame(0x21, 0, 40, b"x")),
        ("credit for a stream never opened", frame(0x23, 0, 40, &[0, 0, 1, 0])),
        ("the end of a stream never opened", frame(0x22, 0, 40, b"")),
        ("data on the session", frame(0x21, 0, 0, b"x")),
        ("a Register on a stream", frame(0x10, 0, 2, b"{}")),
        ("an Open with the server's number", frame(0x20, 0, 2, &[0; 64])),
        ("an Open that cannot be read", frame(0x20, 0, 1, &[9; 64])),
        ("an Open cut short", frame(0x20, 0, 1, &[1, 0, 0])),
        ("a short heartbeat", frame(0x00, 0, 0, &[0; 3])),
        ("a short Window", frame(0x23, 0, 2, &[0; 2])),
        ("a Register that is no JSON", frame(0x10, 0, 0, b"{\"tunnels\": 5}")),
        ("a Register of nested lists", frame(0x10, 0, 0, "[".repeat(60_000).as_bytes())),
        ("a GoAway that is no JSON", frame(0x30, 0, 0, b"go")),
        ("another AuthRequest", frame(0x01, 0, 0, b"{}")),
        ("a server's frame", frame(0x02, 0, 0, b"{}")),
        ("a Join in a lane", frame(0x31, 0, 0, b"{}")),
    ];
    for (number, (what, bytes)) in attempts.into_iter().enumerate() {
        let mut agent = RawAgent::with_token(&server, &token, &format!("a{number}")).await.unwrap();
        agent.wire.raw(&bytes).await.unwrap();
        let end = agent.wire.end().await;
        assert!(end.as_ref().is_none_or(|(code, _)| *code != ErrorCode::NoError), "{what}: {end:?}");
    }
    others_are_served(&server).await;
}

#[tokio::test]
async fn s3_a_lane_cut_in_the_middle_of_a_frame_is_a_lane_lost() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    agent.wire.raw(&[1, 0x21, 0, 0, 0, 0]).await.unwrap();
    drop(agent);
    server.audited("session_ended").await;
    assert_eq!(server.get("app1", "/").await.status, 502);
    // Its owner has it back at once.
    let mut back = RawAgent::start(&server).await;
    back.publish("app1").await.unwrap();
}

#[tokio::test]
async fn s4_floods_of_cheap_frames_end_the_lane() {
    let server = Server::start().await;
    let token = server.token("acme");
    let register = message::encode(&Register::default());
    let floods: [(&str, FrameType, &[u8], u32, usize); 5] = [
        ("pings", FrameType::Heartbeat, &[7; 8], 0, 400),
        ("registers", FrameType::Register, &register, 0, 4_000),
        ("optional frames", FrameType::Optional(0x50), b"", 0, 4_000),
        ("states", FrameType::TunnelState, b"{}", 0, 4_000),
        ("go-aways", FrameType::GoAway, b"{}", 0, 4_000),
    ];
    for (what, kind, payload, stream, count) in floods {
        let mut agent = RawAgent::with_token(&server, &token, "flood").await.unwrap();
        let mut frames = Vec::new();
        for _ in 0..count {
            put_frame(&mut frames, kind, 0, stream, payload);
        }
        // It may have ended before all of it was sent.
        let _ = agent.wire.raw(&frames).await;
        let end = agent.wire.end().await;
        assert!(end.is_none_or(|(code, _)| code == ErrorCode::EnhanceYourCalm), "{what}");
    }
    eventually(DEADLINE, "all five on record", || async {
        let violations = server.audit().into_iter().filter(|line| line["event"] == "protocol_violation").count();
        (violations == 5).then_some(())
    })
    .await;
    others_are_served(&server).await;
}

#[tokio::test]
async fn s4_floods_on_streams_end_the_lane() {
    let tiny: &[u8] = &[0, 0, 0, 1];
    let cancel: &[u8] = &[0, 8];
    for (what, kind, flag, payload, count) in [
        ("empty data", FrameType::Data, 0, b"".as_slice(), 200),
        ("tiny windows", FrameType::Window, 0, tiny, 2_000),
        ("resets of a stream that is gone", FrameType::Close, flags::RST, cancel, 300_000),
    ] {
        let server = Server::start().await;
        let mut agent = RawAgent::publishing(&server, "app1").await;
        let (visitor, stream, _) = visit!(server, agent, "app1", 10);
        let mut frames = Vec::new();
        for _ in 0..count {
            put_frame(&mut frames, kind, flag, stream, payload);
        }
        let _ = agent.wire.raw(&frames).await;
        let end = agent.wire.end().await;
        assert!(end.as_ref().is_none_or(|(code, _)| *code == ErrorCode::EnhanceYourCalm), "{what}: {end:?}");
        let on_record = || async {
            let audit = server.audit();
            (audit.iter().any(|line| line["event"] == "protocol_violation")).then_some(())
        };
        eventually(DEADLINE, what, on_record).await;
        drop(visitor);
    }
}

#[tokio::test]
async fn s4_streams_opened_by_an_agent_are_refused_one_by_one() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let open = mux::Open::tcp(1, None, None).encode().unwrap();
    let mut frames = Vec::new();
    for number in 0..500 {
        put_frame(&mut frames, FrameType::Open, 0, number * 2 + 1, &open);
    }
    agent.wire.raw(&frames).await.unwrap();
    for number in 0..500 {
        assert_eq!(agent.wire.reset_of(number * 2 + 1).await, ErrorCode::Refused);
    }
    others_are_served(&server).await;
}

#[tokio::test]
async fn s4_an_agent_that_reads_nothing_costs_its_visitors_a_timeout_and_the_server_nothing() {
    let server = Server::setup()
        .section("limits: { response_timeout: 1s }")
        .section("tunnel: { heartbeat: 500ms, dead_after: 1500ms }")
        .start()
        .await;
    let agent = RawAgent::publishing(&server, "app1").await;
    let body = vec![b'x'; 200_000];
    let visits = (0..8).map(|_| {
        let (server, body) = (&server, &body);
        async move {
            let mut visitor = raw::Client::connect(server.public).await.unwrap();
            let head = raw::head("POST", &server.host("app1"), "/", &[], Some(body.len()));
            visitor.send(&head).await.unwrap();
            // The body is more than there is credit for: it may get stuck.
            let _ = tokio::time::timeout(Duration::from_millis(100), visitor.send(body)).await;
            visitor.response(false).await.map(|answer| answer.status)
        }
    });
    for status in futures_of(visits).await {
        assert!(matches!(status, Ok(502 | 504)), "{status:?}");
    }
    server.audited("session_ended").await;
    others_are_served(&server).await;
    drop(agent);
}

async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in waiting.iter_mut().zip(&mut done) {
            if let Some(running) = future
                && let std::task::Poll::Ready(value) = running.as_mut().poll(cx)
            {
                (*future, *slot) = (None, Some(value));
            }
        }
        if waiting.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn s3_answers_out_of_order_are_bad_answers_and_no_more() {
    let server = Server::start().await;
    let mut agent = RawAgent::publishing(&server, "app1").await;
    let head = |status: u16| AnswerHead::writer(status, Timing::default()).finish();
    let mut status_of_nothing = head(200);
    status_of_nothing[0..2].copy_from_slice(&42_u16.to_be_bytes());
    let mut value_with_line_end = AnswerHead::writer(200, Timing::default());
    value_with_line_end.pair("x-a", b"b\r\nset-cookie: stolen=1");
    let mut name_with_colon = AnswerHead::writer(200, Timing::default());
    name_with_colon.pair("x: y", b"b");
    let mut control_bytes = AnswerHead::writer(200, Timing::default());
    control_bytes.pair("x-a", b"a\x01b");
    let attempts: Vec<(&str, u8, Vec<u8>)> = vec![
        ("data before the head", 0, b"data".to_vec()),
        ("an end without a head", flags::END, Vec::new()),
        ("trailers before the head", flags::HEADERS | flags::END, head(0)),
        ("a status that is none", flags::HEADERS, status_of_nothing),
        ("a head cut short", flags::HEADERS, vec![0, 200, 0]),
        ("a value with a line end", flags::HEADERS, value_with_line_end.finish()),
        ("a name with a colon", flags::HEADERS, name_with_colon.finish()),
        ("a value with a control byte", flags::HEADERS, control_bytes.finish()),
        ("a switch nobody asked for", flags::HEADERS, head(101)),
    ];
    for (what, flag, payload) in attempts {
        let serve = async {
            let (stream, _) = agent.wire.opened().await;
            agent.wire.send(FrameType::Data, flag, stream, &payload).await.unwrap();
        };
        let (answer, ()) = tokio::join!(server.get("app1", "/"), serve);
        assert_eq!(answer.status, 502, "{what}: {answer:?}");
        assert!(answer.header("set-cookie").is_none(), "{what}");
    }
    // The lane is as good as before.
    let serve = async {
        let (stream, _) = agent.wire.opened().await;
        agent.wire.answer_text(stream, "fine").await.unwrap();
    };
    let (answer, ()) = tokio::join!(server.get("app1", "/"), serve);
    assert_eq!(answer.text(), "fine");
}
