//! Certificate signing requests (PKCS #10): what one asks for, and what each of Kubernetes' signers takes.

use std::fmt::Write as _;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

const PEM_LABEL: &str = "CERTIFICATE REQUEST";

/// What a request asks for. That it is signed by its own key has been checked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    /// As text.
    pub ip_addresses: Vec<String>,
    /// There are names of other sorts.
    pub email_addresses: bool,
    pub uris: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    Pem,
    #[error("asn1: structure error: {0}")]
    Form(String),
    #[error("x509: the request's signature is not by its own key")]
    Signature,
    /// Nobody may be judged by one name and known by another.
    #[error("x509: the subject has {0} common names; it may have one")]
    CommonNames(usize),
}

/// The DER in a request's PEM.
pub fn request_der(pem: &[u8]) -> Result<Vec<u8>, RequestError> {
    match x509_parser::pem::parse_x509_pem(pem) {
        Ok((_, block)) if block.label == PEM_LABEL => Ok(block.contents),
        _ => Err(RequestError::Pem),
    }
}

impl Request {
    /// Reads a request (PEM).
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        let der = request_der(pem)?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|error| RequestError::Form(error.to_string()))?;
        if !rest.is_empty() {
            return Err(RequestError::Form("trailing data".into()));
        }
        parsed.verify_signature().map_err(|_| RequestError::Signature)?;
        let subject = &parsed.certification_request_info.subject;
        let names = subject.iter_common_name().count();
        if names > 1 {
            return Err(RequestError::CommonNames(names));
        }
        let mut request = Self {
            common_name: common_name(subject).unwrap_or_default(),
            organizations: texts(subject.iter_organization()),
            ..Self::default()
        };
        // Of all attributes that ask for extensions: the one that a signer takes names from may be any.
        let attributes = parsed.certification_request_info.iter_attributes();
        let extensions = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(asked) => Some(&asked.extensions),
            _ => None,
        });
        for extension in extensions.flatten().map(|extension| extension.parsed_extension()) {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| request.add(name));
            }
        }
        Ok(request)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => self.ip_addresses.push(ip_text(bytes)),
            GeneralName::RFC822Name(_) => self.email_addresses = true,
            // What is none of these is no better than a URI, which nobody signs.
            _ => self.uris = true,
        }
    }
}

/// The name that a subject is known by: where it has several common names, the last, as Go's `crypto/x509`
/// and with it upstream reads it. All that judge a certificate or a request have to take the same one.
pub fn common_name(subject: &X509Name<'_>) -> Option<String> {
    let last = subject.iter_common_name().last()?.as_str().ok()?;
    (!last.is_empty()).then(|| last.to_owned())
}

fn texts<'a>(values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> Vec<String> {
    values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect()
}

fn ip_text(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(four).to_string();
    }
    if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        return std::net::Ipv6Addr::from(sixteen).to_string();
    }
    bytes.iter().fold(String::from("?"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The signers whose certificates this cluster makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    ApiServerClient,
    ApiServerClientKubelet,
    KubeletServing,
}

pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// In a request's `spec.extra`: the one node that its requestor's join token is for. Only the server that
/// knows the requestor writes it.
pub const BOOTSTRAP_NODE: &str = "skiff.dev/bootstrap-node";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

impl Signer {
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            CLIENT_SIGNER => Self::ApiServerClient,
            KUBELET_CLIENT_SIGNER => Self::ApiServerClientKubelet,
            KUBELET_SERVING_SIGNER => Self::KubeletServing,
            _ => return None,
        })
    }

    /// Why this signer does not sign such a request, in upstream's words.
    pub fn fault(self, request: &Request, usages: &[String]) -> Option<String> {
        match self {
            Self::ApiServerClient => client_usages(usages),
            Self::ApiServerClientKubelet => of_node(request).or_else(|| {
                let named = [
                    (!request.dns_names.is_empty(), "DNS"),
                    (request.email_addresses, "Email"),
                    (!request.ip_addresses.is_empty(), "IP"),
                    (request.uris, "URI"),
                ];
                let present = named.into_iter().find_map(|(there, sort)| there.then_some(sort));
                present
                    .map(|sort| format!("{sort} subjectAltNames are not allowed"))
                    .or_else(|| exact_usages(usages, "client auth"))
            }),
            Self::KubeletServing => of_node(request).or_else(|| {
                if request.dns_names.is_empty() && request.ip_addresses.is_empty() {
                    return Some("DNS or IP subjectAltName is required".into());
                }
                let named = [(request.email_addresses, "Email"), (request.uris, "URI")];
                let present = named.into_iter().find_map(|(there, sort)| there.then_some(sort));
                present
                    .map(|sort| format!("{sort} subjectAltNames are not allowed"))
                    .or_else(|| exact_usages(usages, "server auth"))
            }),
        }
    }
}

fn of_node(request: &Request) -> Option<String> {
    if request.organizations != [NODES] {
        return Some("subject organization is not system:nodes".into());
    }
    let named = request.common_name.strip_prefix(NODE_PREFIX).is_some_and(|node| !node.is_empty());
    (!named).then(|| "subject common name does not begin with system:node:".into())
}

fn exact_usages(usages: &[String], purpose: &str) -> Option<String> {
    let mut given: Vec<&str> = usages.iter().map(String::as_str).collect();
    given.sort_unstable();
    given.dedup();
    let mut whole = ["digital signature", "key encipherment", purpose];
    whole.sort_unstable();
    let without_rsa: Vec<&str> = whole.into_iter().filter(|usage| *usage != "key encipherment").collect();
    (given != whole && given != without_rsa).then(|| format!("usages did not match {}", whole.join(" ")))
}

fn client_usages(usages: &[String]) -> Option<String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !optional.contains(&usage.as_str())) {
        return Some(format!("invalid usage for client certificate: {other}"));
    }
    let named = usages.iter().any(|usage| usage == "client auth");
    (!named).then(|| "missing required usage for client certificate: client auth".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(signer: Signer, request: &Request, usages: &[&str]) -> Option<String> {
        let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        signer.fault(request, &usages)
    }

    fn node() -> Request {
        Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..Request::default()
        }
    }

    const CLIENT: &[&str] = &["digital signature", "client auth"];
    const SERVER: &[&str] = &["key encipherment", "digital signature", "server auth"];

    #[test]
    fn a_nodes_client_certificate_names_the_node_and_nothing_else() {
        let check = |request: Request, usages: &[&str], expected: Option<&str>| {
            assert_eq!(fault(Signer::ApiServerClientKubelet, &request, usages).as_deref(), expected);
        };
        check(node(), CLIENT, None);
        let others =
            Request { organizations: vec!["system:nodes".into(), "system:masters".into()], ..node() };
        check(others, CLIENT, Some("subject organization is not system:nodes"));
        let nameless = Request { common_name: "system:node:".into(), ..node() };
        check(nameless, CLIENT, Some("subject common name does not begin with system:node:"));
        let named = Request { dns_names: vec!["a".into()], ..node() };
        check(named, CLIENT, Some("DNS subjectAltNames are not allowed"));
        check(node(), SERVER, Some("usages did not match client auth digital signature key encipherment"));
    }

    #[test]
    fn a_nodes_serving_certificate_names_where_it_is() {
        let check = |request: Request, usages: &[&str], expected: Option<&str>| {
            assert_eq!(fault(Signer::KubeletServing, &request, usages).as_deref(), expected);
        };
        let named = || Request { ip_addresses: vec!["10.0.0.1".into()], ..node() };
        check(named(), SERVER, None);
        check(node(), SERVER, Some("DNS or IP subjectAltName is required"));
        check(Request { uris: true, ..named() }, SERVER, Some("URI subjectAltNames are not allowed"));
        check(named(), CLIENT, Some("usages did not match digital signature key encipherment server auth"));
    }

    #[test]
    fn a_users_certificate_is_for_clients() {
        let check = |usages: &[&str], expected: Option<&str>| {
            assert_eq!(fault(Signer::ApiServerClient, &Request::default(), usages).as_deref(), expected);
        };
        check(&["client auth"], None);
        check(SERVER, Some("invalid usage for client certificate: server auth"));
        check(&["digital signature"], Some("missing required usage for client certificate: client auth"));
    }

    #[test]
    fn of_several_common_names_the_last_counts() {
        let named = |names: &[&str]| {
            // RelativeDistinguishedName of one attribute: id-at-commonName, UTF8String.
            let attribute = |name: &&str| {
                let length = |more: usize| u8::try_from(name.len() + more).expect("a short name");
                let mut der = vec![0x31, length(9), 0x30, length(7), 6, 3, 0x55, 4, 3, 0x0c, length(0)];
                der.extend_from_slice(name.as_bytes());
                der
            };
            let parts: Vec<u8> = names.iter().flat_map(attribute).collect();
            let der = [&[0x30, u8::try_from(parts.len()).expect("a short name")], parts.as_slice()].concat();
            let (_, subject) = X509Name::from_der(&der).expect("a name");
            common_name(&subject)
        };
        assert_eq!(named(&["kube-controller-manager", "system:node:a"]).as_deref(), Some("system:node:a"));
        assert_eq!(named(&["system:node:a"]).as_deref(), Some("system:node:a"));
        assert_eq!(named(&["system:node:a", ""]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn what_is_no_request_is_told_so() {
        assert_eq!(Request::parse(b"junk"), Err(RequestError::Pem));
        let other = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(Request::parse(other), Err(RequestError::Pem));
        let broken = b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        assert!(matches!(Request::parse(broken), Err(RequestError::Form(_))));
    }
}
