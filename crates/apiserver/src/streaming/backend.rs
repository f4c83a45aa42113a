//! Whom a request below `pods/NAME/proxy` or `services/NAME/proxy` is meant for.
//!
//! A name may be `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`; the port may be a service port's name.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use serde_json::Value;
use skiff_api::status::StatusError;
use tokio::net::TcpStream;
use tracing::debug;

use crate::http_body::Request;
use crate::resources::{Resource, find};
use crate::server::{Call, Inner};

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// The parts of a name, as it stands in a path.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

fn parse(text: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let target = match parts[..] {
        [name] => Target { scheme: "", name, port: "" },
        [name, port] => Target { scheme: "", name, port },
        [scheme, name, port] => Target { scheme, name, port },
        _ => return None,
    };
    (!target.name.is_empty() && matches!(target.scheme, "" | "http" | "https")).then_some(target)
}

/// Where the pod or service that the request names takes connections.
pub(super) fn of(server: &Inner, call: &Call, row: &'static Resource) -> Result<SocketAddr, StatusError> {
    let text = &call.address.name;
    let what = if row.storage == "pods" { "pod" } else { "service" };
    let target =
        parse(text).ok_or_else(|| StatusError::bad_request(format!("invalid {what} request {text:?}")))?;
    if target.scheme == "https" {
        return Err(StatusError::bad_request("the proxy speaks plain HTTP to pods and services only"));
    }
    let key = row.key(&call.address.namespace, target.name);
    let object = server
        .caches
        .of(row)
        .get(&key)
        .ok_or_else(|| StatusError::not_found(row.group_resource(), target.name))?
        .value(row);
    let address = match row.storage {
        "pods" => of_pod(&object, &target)?,
        _ => {
            let endpoints = find("", "endpoints").expect("endpoints are in the table");
            let found = server.caches.of(endpoints).get(&endpoints.key(&call.address.namespace, target.name));
            let all = of_service(&object, found.map(|found| found.value(endpoints)).as_ref(), &target)?;
            all[rand::rng().random_range(0..all.len())]
        }
    };
    proxyable(address)
}

/// What only the machine itself may reach is nobody's pod, in whichever clothes it comes.
fn proxyable(address: SocketAddr) -> Result<SocketAddr, StatusError> {
    let refused = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()
        }
    };
    if refused {
        return Err(StatusError::bad_request("address not allowed"));
    }
    Ok(address)
}

fn of_pod(pod: &Value, target: &Target<'_>) -> Result<SocketAddr, StatusError> {
    let bad = |what: &str| StatusError::bad_request(format!("invalid pod request {:?}: {what}", target.name));
    let port = match target.port {
        "" => pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64())
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(80),
        given => given.parse().map_err(|_| bad("the port is no number"))?,
    };
    let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
    Ok((ip.ok_or_else(|| bad("the pod has no address yet"))?, port).into())
}

/// The addresses behind the service's port, at least one.
fn of_service(
    service: &Value,
    endpoints: Option<&Value>,
    target: &Target<'_>,
) -> Result<Vec<SocketAddr>, StatusError> {
    let empty = Vec::new();
    let ports = service["spec"]["ports"].as_array().unwrap_or(&empty);
    let port = match target.port {
        "" => ports.first().filter(|_| ports.len() == 1),
        given => {
            let number: Option<u64> = given.parse().ok();
            ports.iter().find(|port| port["name"] == given || number.is_some_and(|n| port["port"] == n))
        }
    };
    let port = port.ok_or_else(|| {
        let (port, name) = (target.port, target.name);
        StatusError::unavailable(format!("no service port {port:?} found for service {name:?}"))
    })?;
    let name = port["name"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    for subset in endpoints.and_then(|e| e["subsets"].as_array()).into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let own = ports.filter(|port| port["name"].as_str().unwrap_or_default() == name);
        for port in own.filter_map(|port| port["port"].as_u64()).filter_map(|port| u16::try_from(port).ok()) {
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            let ips = addresses.filter_map(|address| address["ip"].as_str()?.parse::<IpAddr>().ok());
            found.extend(ips.map(|ip| SocketAddr::from((ip, port))));
        }
    }
    match found.is_empty() {
        true => {
            let name = target.name;
            Err(StatusError::unavailable(format!("no endpoints available for service {name:?}")))
        }
        false => Ok(found),
    }
}

/// Sends a request as it is; the answer's body streams.
pub(super) async fn send(
    address: SocketAddr,
    mut request: Request,
) -> Result<http::Response<hyper::body::Incoming>, StatusError> {
    let failed = |cause: String| StatusError::unavailable(format!("error trying to reach service: {cause}"));
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(format!("dial tcp {address}: connect: {error}"))),
        Err(_) => return Err(failed(format!("dial tcp {address}: i/o timeout"))),
    };
    let host = HeaderValue::from_str(&address.to_string()).map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert(HOST, host);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| failed(error.to_string()))?;
    // It lives as long as the answer's body, or what the connection is upgraded to.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a connection to a pod ended");
        }
    });
    sender.send_request(request).await.map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(text: &str) -> Target<'_> {
        parse(text).expect("a target")
    }

    #[test]
    fn names_may_have_scheme_and_port() {
        let check = |text, scheme, name, port| assert_eq!(target(text), Target { scheme, name, port });
        check("web", "", "web", "");
        check("web:8080", "", "web", "8080");
        check("http:web:", "http", "web", "");
        check("https:web:tls", "https", "web", "tls");
        for text in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_pod_is_reached_at_its_address() {
        let pod = json!({"status": {"podIP": "10.244.0.7"},
            "spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]}});
        let at = |text: &str| of_pod(&pod, &target(text)).map(|a| a.to_string()).map_err(|e| e.code());
        assert_eq!(at("p"), Ok("10.244.0.7:8080".into()));
        assert_eq!(at("p:9000"), Ok("10.244.0.7:9000".into()));
        assert_eq!(at("p:http"), Err(400));
        assert!(of_pod(&json!({"status": {}}), &target("p")).is_err());
        for ip in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
        ] {
            assert!(proxyable(ip.parse().expect("an address")).is_err(), "{ip}");
        }
        for ip in ["10.244.0.7:80", "[fd00::7]:80"] {
            assert!(proxyable(ip.parse().expect("an address")).is_ok(), "{ip}");
        }
    }

    #[test]
    fn a_service_is_reached_at_its_endpoints() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "more", "port": 81}]}});
        let endpoints = json!({"subsets": [{
            "addresses": [{"ip": "10.244.0.7"}, {"ip": "10.244.1.8"}],
            "notReadyAddresses": [{"ip": "10.244.0.9"}],
            "ports": [{"name": "web", "port": 8080}, {"name": "more", "port": 8081}],
        }]});
        let at = |text: &str, endpoints: Option<&Value>| {
            let all = of_service(&service, endpoints, &target(text));
            all.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
                .map_err(|e| e.message().to_owned())
        };
        let expected = Ok(vec!["10.244.0.7:8080".to_owned(), "10.244.1.8:8080".to_owned()]);
        assert_eq!(at("s:web", Some(&endpoints)), expected);
        assert_eq!(at("s:80", Some(&endpoints)), expected);
        let none = Err("no service port \"\" found for service \"s\"".to_owned());
        assert_eq!(at("s", Some(&endpoints)), none, "it has two ports");
        assert_eq!(at("s:web", None), Err("no endpoints available for service \"s\"".to_owned()));
    }
}
