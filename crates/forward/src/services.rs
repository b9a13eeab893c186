//! What services a cluster has, for people who look for one: one bounded list, asked for when somebody wants to see it.

use std::time::Duration;

use crate::clusters::Clusters;
use crate::error::ForwardError;
use crate::k8s::api::{Api, ApiError};
use crate::k8s::objects::{List, Service};
use crate::k8s::watch::encoded;

/// Services of a list; who has more narrows it with `kubectl`.
const MOST: usize = 500;
/// How long a person waits for the list.
const WITHIN: Duration = Duration::from_secs(5);

/// The services of a context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceList {
    /// By namespace and name.
    pub services: Vec<ServiceEntry>,
    /// There are more.
    pub more: bool,
    /// Only this namespace was read, as the others may not be.
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

impl Clusters {
    /// The services of a context: of all namespaces, or, where that is not allowed, of the context's own.
    ///
    /// # Errors
    /// [`ForwardError`] when the cluster does not tell in time.
    pub async fn services(&self, context: &str) -> Result<ServiceList, ForwardError> {
        let asking = async {
            let api = self.cluster(Some(context)).await?.api;
            match list(&api, "/api/v1/services").await {
                Err(ApiError::Forbidden { .. }) => {
                    let namespace = api.default_namespace();
                    let path = format!("/api/v1/namespaces/{}/services", encoded(&namespace));
                    let list = list(&api, &path).await.map_err(ForwardError::Api)?;
                    Ok(ServiceList { only: Some(namespace), ..list })
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

async fn list(api: &Api, path: &str) -> Result<ServiceList, ApiError> {
    let list: List<Service> = api.get(&format!("{path}?limit={MOST}")).await?;
    let more = list.metadata.next.is_some();
    // A server need not keep to the limit.
    let mut services: Vec<ServiceEntry> = list.items.into_iter().take(MOST).filter_map(entry).collect();
    services.sort();
    Ok(ServiceList { services, more, only: None })
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
