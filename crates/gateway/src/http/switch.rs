//! Upgraded connections: bytes both ways until both have ended.

use std::sync::Arc;

use http::header::HeaderMap;
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use runtime::upstream::UpstreamConnection;
use tokio::io::AsyncWriteExt as _;

use super::body::{AnswerBody, RequestBody};
use super::exchange::Flight;
use super::{Connection, Problem};

/// Turns both sides into byte pipes once the client's has switched; the answer says that it may.
pub(crate) async fn switch(
    connection: &Arc<Connection>,
    upstream: UpstreamConnection<RequestBody>,
    headers: HeaderMap,
    on_upgrade: OnUpgrade,
    flight: Flight,
) -> Result<Response<AnswerBody>, Problem> {
    let gone = || Problem::NoAnswer { target: flight.upstream().target() };
    let (mut target, first) = upstream.into_upgraded().await.map_err(|_| gone())?.ok_or_else(gone)?;
    let scope = connection.scope.clone();
    connection.scope.spawn("upgraded", async move {
        let Some(Ok(client)) = scope.until_cancelled(on_upgrade).await else { return };
        let mut client = TokioIo::new(client);
        let carry = async {
            client.write_all(&first).await?;
            flight.sent(first.len());
            tokio::io::copy_bidirectional(&mut client, &mut target).await
        };
        if let Some(Ok((received, sent))) = scope.until_cancelled(carry).await {
            flight.received(received);
            flight.sent(usize::try_from(sent).unwrap_or(usize::MAX));
        }
    });
    let mut response = Response::new(AnswerBody::own(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok(response)
}
