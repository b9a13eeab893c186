//! A request's body on its way to the agent, beside the wait for the answer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
};
use http_body::Body as _;
use hyper::body::Incoming;
use mux::ErrorCode;
use tokio::sync::oneshot;

use super::account::Account;
use super::answer::Problem;
use super::record::Record;
use super::state::State;
use crate::Stream;
use crate::throttle::Throttle;
use crate::wire_http::trailer_block;

/// How long a body may be slow before it is judged.
const GRACE: Duration = Duration::from_secs(10);

/// Tells when a body was given up, and why.
pub(super) struct GivenUp(oneshot::Receiver<Problem>);

impl GivenUp {
    /// Resolves when the body was given up; never, when it was not.
    pub(super) async fn wait(self) -> Problem {
        match self.0.await {
            Ok(problem) => problem,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts sending a body.
pub(super) fn start(
    state: &Arc<State>,
    stream: &Arc<Stream>,
    body: Incoming,
    account: &Arc<Account>,
    record: &Record,
) -> GivenUp {
    let (tell, given_up) = oneshot::channel();
    let stream = Arc::clone(stream);
    let throttle = Arc::clone(&account.upload);
    let uploaded = record.uploaded();
    // Only a body whose length was announced is owed: one without may be a conversation with pauses.
    let min_rate = body.size_hint().exact().map(|_| state.config.load().limits.body_min_rate);
    state.scope.spawn("upload", async move {
        let counted = |bytes: usize| {
            uploaded.fetch_add(bytes as u64, Ordering::Relaxed);
        };
        match send(&stream, body, &throttle, min_rate, counted).await {
            None => {}
            Some(problem) => {
                // The answer is decided before the stream ends, so that it says why.
                let _ = tell.send(problem);
                tokio::task::yield_now().await;
                stream.reset(ErrorCode::Cancel);
            }
        }
    });
    GivenUp(given_up)
}

/// Sends a body as far as it comes and is wanted; tells why it was given up, if it was.
async fn send(
    stream: &Stream,
    body: Incoming,
    throttle: &Throttle,
    min_rate: Option<u64>,
    counted: impl Fn(usize),
) -> Option<Problem> {
    let mut body = pin!(body);
    let mut pace = Pace { rate: min_rate.unwrap_or(0), waited: Duration::ZERO, bytes: 0 };
    loop {
        let asked = Instant::now();
        let next = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx));
        let frame = match pace.patience() {
            None => next.await,
            Some(patience) => match tokio::time::timeout(patience, next).await {
                Ok(frame) => frame,
                Err(_) => return Some(Problem::SlowBody),
            },
        };
        pace.waited += asked.elapsed();
        let frame = match frame {
            None => break,
            // The visitor left, or what it sends is no body.
            Some(Err(_)) => return Some(Problem::BadRequest(400, "its body was cut short".into())),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                let n = data.len();
                pace.bytes += n as u64;
                // The agent wants no more of it: its answer may be on its way all the same.
                if stream.send(data).await.is_err() {
                    return None;
                }
                counted(n);
                if let Some(wait) = throttle.charge(n) {
                    tokio::time::sleep(wait).await;
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().ok().map(harmless);
                if let Some(block) = trailers.and_then(|trailers| trailer_block(&trailers)) {
                    let _ = stream.send_head(block, true);
                    return None;
                }
            }
        }
    }
    let _ = stream.finish();
    None
}

/// Trailers without what is for heads alone (RFC 9110 section 6.5.1), above all what we say of the visitor (S10).
fn harmless(mut trailers: HeaderMap) -> HeaderMap {
    for name in adit_core::forwarded::NAMES {
        trailers.remove(name);
    }
    adit_core::forwarded::drop_lookalikes(&mut trailers);
    for name in [HOST, CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_RANGE, AUTHORIZATION, COOKIE] {
        trailers.remove(name);
    }
    trailers
}

/// Holds a visitor to a minimum rate over the time we waited for it, not for the agent.
struct Pace {
    /// Bytes a second; 0 for none.
    rate: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// How long the next bytes may take.
    fn patience(&self) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let earned = Duration::try_from_secs_f64(self.bytes as f64 / self.rate as f64).unwrap_or(Duration::MAX);
        Some(GRACE.saturating_add(earned).saturating_sub(self.waited).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_body_uses_up_its_grace_and_a_steady_one_earns_more() {
        let mut pace = Pace { rate: 1000, waited: Duration::from_secs(9), bytes: 0 };
        assert_eq!(pace.patience(), Some(Duration::from_secs(1)));
        pace.bytes = 9000;
        assert_eq!(pace.patience(), Some(GRACE));
        pace.rate = 0;
        assert_eq!(pace.patience(), None);
    }
}
