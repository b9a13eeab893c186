//! Watches: the changes after a version, one JSON document a line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::api::Asked;
use super::reply::{Body, Refusal};
use super::selector::Filter;
use super::store::{Action, Change, Compacted};
use super::{list, query, table};

/// Pieces that wait for a slow client; then the watch waits, and may find its version forgotten.
const PIECES: usize = 16;
/// The end of a watch that names none.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// One running watch.
struct Watch {
    shared: Arc<Shared>,
    kind: usize,
    filter: Filter,
    version: u64,
    table: bool,
    include: Option<String>,
    /// Whether a Table was sent already: later ones leave the columns out.
    columns_sent: bool,
    bookmarks: bool,
    marks: (u64, u64),
    out: mpsc::Sender<Bytes>,
}

/// How a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With the changes after a version.
    Version(u64),
    /// With all objects as they are.
    Objects,
    /// With all objects, and a bookmark that says so.
    Streamed,
}

/// The body of a watch's answer.
struct Pieces(mpsc::Receiver<Bytes>);

pub(super) fn answer(shared: &Arc<Shared>, asked: &Asked) -> Result<Response<Body>, Refusal> {
    let mut filter = list::filter(asked)?;
    if let Some(name) = &asked.target.name {
        filter.fields.push(("metadata.name".to_owned(), true, name.clone()));
    }
    let start = match list::version(asked)? {
        _ if query::flag(&asked.query, "sendInitialEvents") => Start::Streamed,
        None | Some(0) => Start::Objects,
        Some(version) => Start::Version(version),
    };
    let limit = query::value(&asked.query, "timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    let limit = limit.filter(|seconds| *seconds > 0).map_or(FOR_EVER, Duration::from_secs);
    let (out, pieces) = mpsc::channel(PIECES);
    let watch = Watch {
        shared: Arc::clone(shared),
        kind: asked.target.kind,
        filter,
        version: 0,
        table: asked.table,
        include: query::value(&asked.query, "includeObject").map(str::to_owned),
        columns_sent: false,
        bookmarks: query::flag(&asked.query, "allowWatchBookmarks"),
        marks: shared.faults.watch_marks(),
        out,
    };
    shared.hold(watch.run(start, Instant::now() + limit.min(FOR_EVER)));
    let mut response = Response::new(Pieces(pieces).boxed());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    async fn run(mut self, start: Start, end: Instant) {
        let mut changes = self.shared.store.changes();
        let begun = self.begin(start);
        if !self.send(begun).await {
            return;
        }
        let mut bookmark = Instant::now() + self.shared.options.bookmarks;
        loop {
            changes.borrow_and_update();
            let (text, over) = self.news();
            if !self.send(text).await || over {
                return;
            }
            // 1. the client left; 2. something changed; 3. time is up; 4. a bookmark is due.
            tokio::select! {
                biased;
                () = self.out.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(end) => return,
                () = sleep_until(bookmark), if self.bookmarks => {
                    bookmark = Instant::now() + self.shared.options.bookmarks;
                    let mut text = Vec::new();
                    self.bookmark(&mut text, false);
                    if !self.send(text).await {
                        return;
                    }
                }
            }
        }
    }

    /// What is sent before any change.
    fn begin(&mut self, start: Start) -> Vec<u8> {
        let mut text = Vec::new();
        if let Start::Version(version) = start {
            self.version = version;
            return text;
        }
        let (version, mut objects) = self.shared.store.list(self.kind, self.filter.namespace.as_deref());
        self.version = version;
        objects.retain(|object| self.filter.matches(object));
        for object in &objects {
            self.event(&mut text, "ADDED", object);
        }
        if start == Start::Streamed && self.bookmarks {
            self.bookmark(&mut text, true);
        }
        text
    }

    /// What happened since the last call, and whether that is the end.
    fn news(&mut self) -> (Vec<u8>, bool) {
        let mut text = Vec::new();
        let marks = self.shared.faults.watch_marks();
        if marks.0 != self.marks.0 {
            return (text, true);
        }
        let changes = match self.shared.store.since(self.kind, self.version) {
            _ if marks.1 != self.marks.1 => Err(Compacted { asked: self.version, oldest: self.shared.store.oldest() }),
            changes => changes,
        };
        match changes {
            Ok((version, changes)) => {
                self.version = self.version.max(version);
                for change in &changes {
                    self.change(&mut text, change);
                }
                (text, false)
            }
            Err(Compacted { asked, oldest }) => {
                let refusal = Refusal::expired(format!("too old resource version: {asked} ({oldest})"));
                line(&mut text, "ERROR", &refusal.status());
                (text, true)
            }
        }
    }

    fn change(&mut self, text: &mut Vec<u8>, change: &Change) {
        let was = change.before.as_ref().is_some_and(|before| self.filter.matches(before));
        let is = change.action != Action::Deleted && self.filter.matches(&change.object);
        match (was, is) {
            (false, true) => self.event(text, "ADDED", &change.object),
            (true, true) => self.event(text, "MODIFIED", &change.object),
            (true, false) if change.action == Action::Deleted => self.event(text, "DELETED", &change.object),
            (true, false) => {
                // Gone from this watch, not from the world: as it last was here, at the version of now.
                let mut last = change.before.as_deref().cloned().unwrap_or_default();
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.event(text, "DELETED", &Arc::new(last));
            }
            (false, false) => {}
        }
    }

    fn event(&mut self, text: &mut Vec<u8>, kind: &str, object: &Arc<Value>) {
        if !self.table {
            return line(text, kind, object);
        }
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or("");
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let include = self.include.as_deref();
        line(text, kind, &table::render(self.kind, &[Arc::clone(object)], version, include, columns));
    }

    fn bookmark(&self, text: &mut Vec<u8>, initial: bool) {
        let kind = &super::kinds::KINDS[self.kind];
        let mut metadata = json!({ "resourceVersion": self.version.to_string(), "creationTimestamp": null });
        if initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata });
        line(text, "BOOKMARK", &object);
    }

    /// False when the client is gone.
    async fn send(&self, text: Vec<u8>) -> bool {
        text.is_empty() || self.out.send(Bytes::from(text)).await.is_ok()
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn line(text: &mut Vec<u8>, kind: &str, object: &Value) {
    text.extend_from_slice(b"{\"type\":\"");
    text.extend_from_slice(kind.as_bytes());
    text.extend_from_slice(b"\",\"object\":");
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(&mut *text, object);
    text.extend_from_slice(b"}\n");
}
