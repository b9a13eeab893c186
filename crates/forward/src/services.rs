//! What services a cluster has, for people who look for one: one bounded list, asked for when somebody wants to see it.

use std::time::Duration;

use crate::clusters::Clusters;
use crate::error::ForwardError;
use crate::k8s::api::{Api, ApiError};
use crate::k8s::objects::{List, Service};
use crate::k8s::watch::encoded;

/// Services of a list; who has more narrows it with `kubectl`.
const MOST: usize = 500;
/// Pages of that many which are read to find those that are wanted among all.
const PAGES: usize = 10;
/// Namespaces that are asked for one by one; of more, all are read.
const ONE_BY_ONE: usize = 16;
/// How long a person waits for the list.
const WITHIN: Duration = Duration::from_secs(5);

/// The services of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceList {
    /// By namespace and name.
    pub services: Vec<ServiceEntry>,
    /// There are more.
    pub more: bool,
    /// Only these namespaces were read, as the others may not be.
    pub only: Option<String>,
}

/// A service that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its TCP ports: number, and name if there is one.
    pub ports: Vec<(u16, Option<String>)>,
}

/// Which namespaces are wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Those that are known by name.
    pub named: &'a [&'a str],
    /// There are no others.
    pub named_only: bool,
    /// Whether one is wanted.
    pub wants: &'a (dyn Fn(&str) -> bool + Sync),
}

impl Wanted<'_> {
    /// All of them.
    pub const ALL: Wanted<'static> = Wanted { named: &[], named_only: false, wants: &|_| true };
}

impl std::fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("named", &self.named).finish_non_exhaustive()
    }
}

impl Clusters {
    /// The services of a context in the namespaces that are wanted; where not all may be listed, of those known by name
    /// and of the context's own.
    ///
    /// # Errors
    /// [`ForwardError`] when the cluster does not tell in time.
    pub async fn services(&self, context: &str, wanted: Wanted<'_>) -> Result<ServiceList, ForwardError> {
        let asking = async {
            let api = self.cluster(Some(context)).await?.api;
            if wanted.named_only && wanted.named.len() <= ONE_BY_ONE {
                return each(&api, wanted.named, wanted).await.map_err(ForwardError::Api);
            }
            match list(&api, "/api/v1/services", wanted).await {
                Err(error @ ApiError::Forbidden { .. }) => {
                    let own = api.default_namespace();
                    let mut namespaces: Vec<&str> = wanted.named.iter().copied().take(ONE_BY_ONE).collect();
                    if (wanted.wants)(&own) && !namespaces.contains(&&*own) {
                        namespaces.push(&own);
                    }
                    if namespaces.is_empty() {
                        return Err(ForwardError::Api(error));
                    }
                    let list = each(&api, &namespaces, wanted).await.map_err(ForwardError::Api)?;
                    Ok(ServiceList { only: Some(namespaces.join(", ")), ..list })
                }
                list => list.map_err(ForwardError::Api),
            }
        };
        match tokio::time::timeout(WITHIN, asking).await {
            Ok(list) => list,
            Err(_) => {
                let server = format!("the API server of the context `{context}`");
                Err(ForwardError::Api(ApiError::Timeout { server, after: WITHIN }))
            }
        }
    }
}

/// Namespaces one after the other. One that may not be listed, or is not there, does not hide the others.
async fn each(api: &Api, namespaces: &[&str], wanted: Wanted<'_>) -> Result<ServiceList, ApiError> {
    let (mut all, mut read, mut refused) = (ServiceList::default(), false, None);
    for namespace in namespaces {
        if all.services.len() >= MOST {
            all.more = true;
            break;
        }
        match list(api, &format!("/api/v1/namespaces/{}/services", encoded(namespace)), wanted).await {
            Ok(found) => {
                read = true;
                all.more |= found.more;
                all.services.extend(found.services);
            }
            Err(error @ ApiError::Forbidden { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let (false, Some(error)) = (read, refused) {
        return Err(error);
    }
    Ok(finished(all))
}

/// Page after page, until there are as many of those that are wanted as fit.
async fn list(api: &Api, path: &str, wanted: Wanted<'_>) -> Result<ServiceList, ApiError> {
    let mut all = ServiceList::default();
    let mut next: Option<String> = None;
    for _ in 0..PAGES {
        let from = next.as_ref().map(|token| format!("&continue={}", encoded(token))).unwrap_or_default();
        let page: Result<List<Service>, ApiError> = api.get(&format!("{path}?limit={MOST}{from}")).await;
        let page = match page {
            // A place that has gone stale in the meantime: what was read is worth telling.
            Err(_) if next.is_some() => break,
            page => page?,
        };
        all.services.extend(page.items.into_iter().filter_map(entry).filter(|of| (wanted.wants)(&of.namespace)));
        next = page.metadata.next.filter(|token| !token.is_empty());
        if next.is_none() || all.services.len() >= MOST {
            break;
        }
    }
    all.more = next.is_some();
    Ok(finished(all))
}

/// In order, and no more than fit: a server need not keep to the limit.
fn finished(mut list: ServiceList) -> ServiceList {
    list.services.sort();
    list.more |= list.services.len() > MOST;
    list.services.truncate(MOST);
    list
}

/// `None` for what leads to no pod: a name of the DNS, or UDP alone.
fn entry(service: Service) -> Option<ServiceEntry> {
    if service.spec.kind.as_deref() == Some("ExternalName") {
        return None;
    }
    let tcp = service.spec.ports.into_iter().filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP"));
    let ports: Vec<_> = tcp.map(|port| (port.port, port.name.filter(|name| !name.is_empty()))).collect();
    let (namespace, name) = (service.metadata.namespace, service.metadata.name);
    (!ports.is_empty()).then_some(ServiceEntry { namespace, name, ports })
}
