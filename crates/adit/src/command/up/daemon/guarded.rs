//! The API on a TCP port: who may ask there. On the control socket the kernel says who asks; here a token does, and
//! nothing that a browser sends is taken.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_core::diagnose::Fault;
use adit_core::token::TokenHash;
use http::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use runtime::admin::is_for_this_machine;
use runtime::control::{Handler, Lines};
use runtime::places::Place;
use sha2::{Digest as _, Sha256};

use super::api::{self, Api};

/// Who asks with a wrong token waits this long for the answer.
const WRONG: Duration = Duration::from_millis(250);
/// What a browser says of where a request comes from.
const SITE: &str = "sec-fetch-site";

/// The token that is asked for; a reload may change it under a port that is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Key(Arc<Mutex<Option<TokenHash>>>);

impl Key {
    pub(super) fn set(&self, token: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash(token));
    }

    /// Nobody has it any more.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a request has it; the comparison takes the same time wherever the difference is.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let (Some(known), Some(given), None) = (known, all.next(), all.next()) else { return false };
        let given = given.to_str().ok().and_then(|text| text.split_once(' '));
        given.is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && hash(token.trim()) == known)
    }
}

fn hash(token: &str) -> TokenHash {
    TokenHash::from_bytes(Sha256::digest(token.as_bytes()).into())
}

/// What a port of the daemon answers.
#[derive(Clone)]
pub(super) enum Door {
    /// The API, for whoever has the token.
    Api(Api, IpAddr, Key),
    /// The metrics alone, for everybody on this machine.
    Metrics(Api, IpAddr),
}

/// Whoever asks at a port, in a place there.
#[derive(Clone)]
pub(super) struct Client {
    door: Door,
    place: Arc<Place>,
}

impl Client {
    pub(super) fn new(door: Door, place: &Arc<Place>) -> Self {
        Self { door, place: Arc::clone(place) }
    }
}

impl Handler for Client {
    type Body = Lines;

    async fn answer(&self, request: Request<Incoming>) -> Response<Lines> {
        let (api, bound) = match &self.door {
            Door::Api(api, bound, _) | Door::Metrics(api, bound) => (api, *bound),
        };
        if let Err(why) = comes_from_here(&request, bound) {
            api.count_refused();
            return last(api::problem(StatusCode::FORBIDDEN, Fault::NotPermitted.as_str(), why, None));
        }
        match &self.door {
            Door::Api(_, _, key) => {
                if !key.is_in(request.headers()) {
                    api.count_refused();
                    tokio::time::sleep(WRONG).await;
                    return last(unauthorised());
                }
                self.place.keep();
                api.answer(request).await
            }
            Door::Metrics(..) => {
                let _answering = self.place.keep_for_now();
                match (request.method(), request.uri().path()) {
                    (&Method::GET | &Method::HEAD, "/metrics") => api.answer(request).await,
                    (&Method::GET | &Method::HEAD, _) => api::not_found("here is /metrics and nothing else"),
                    _ => api::problem(StatusCode::METHOD_NOT_ALLOWED, "usage", "only GET and HEAD", None),
                }
            }
        }
    }
}

/// No page of ours is served at these ports, so what a page of any site asks for is nothing its user meant.
fn comes_from_here<B>(request: &Request<B>, bound: IpAddr) -> Result<(), &'static str> {
    if !is_for_this_machine(request, bound) {
        return Err("this address answers to this machine's own names only, such as localhost");
    }
    let headers = request.headers();
    let of_a_page = headers.get_all(SITE).iter().any(|site| site != "none");
    if headers.contains_key(ORIGIN) || of_a_page {
        return Err("no web page is answered here");
    }
    Ok(())
}

/// Whoever may not ask is answered once: with more requests on its way it would hold its place at the port.
fn last(mut answer: Response<Lines>) -> Response<Lines> {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn unauthorised() -> Response<Lines> {
    let hint = "send `Authorization: Bearer TOKEN`; `adit daemon status` says where the token is";
    let mut answer =
        api::problem(StatusCode::UNAUTHORIZED, Fault::Auth.as_str(), "the token is missing or wrong", Some(hint));
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"adit\""));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        headers
            .iter()
            .for_each(|(name, value)| _ = request.headers_mut().append(*name, HeaderValue::from_static(value)));
        request
    }

    #[test]
    fn only_the_token_whole_and_alone_opens() {
        let key = Key::default();
        let has = |values: &[&'static str]| {
            let all: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
            key.is_in(request(&all).headers())
        };
        assert!(!has(&["Bearer x"]), "without a token nobody has it");
        key.set("a-token-of-some-length");
        assert!(has(&["Bearer a-token-of-some-length"]) && has(&["bearer  a-token-of-some-length"]));
        for wrong in
            ["", "Bearer", "Bearer ", "Bearer a-token-of-some-lengt", "Basic a-token-of-some-length", "Bearer A-token"]
        {
            assert!(!has(&[wrong]), "{wrong}");
        }
        assert!(!has(&["Bearer a-token-of-some-length", "Bearer a-token-of-some-length"]), "twice is none");
    }

    #[test]
    fn s13_what_a_browser_sends_for_a_page_is_refused() {
        let here = "127.0.0.1".parse().unwrap();
        let check = |headers: &[(&'static str, &'static str)]| comes_from_here(&request(headers), here).is_ok();
        assert!(check(&[("host", "localhost:9797")]) && check(&[("host", "127.0.0.1")]));
        assert!(check(&[("host", "localhost"), ("sec-fetch-site", "none")]), "typed into the address bar");
        for host in ["evil.example", "127.0.0.1.nip.io:9797", "192.168.1.1"] {
            assert!(!check(&[("host", host)]), "{host}");
        }
        assert!(!check(&[("host", "localhost"), ("origin", "null")]));
        for site in ["cross-site", "same-site", "same-origin"] {
            assert!(!check(&[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
        assert!(!check(&[("host", "localhost"), ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]));
    }
}
