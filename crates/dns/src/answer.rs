//! From a question and the records to an answer: no sockets, no clock.
//!
//! Names and records follow the "Kubernetes DNS-Based Service Discovery" specification, version 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use skiff_client::ObjectKey;

use crate::records::{Endpoint, Port, Records, ServiceKind, ServiceRecord, SliceRecord, undashed};

/// Seconds that an answer may be kept: endpoints come and go.
const TTL: u32 = 5;
const SPECIFICATION: &str = "1.1.0";
/// How many `ExternalName`s may follow each other.
const CHAIN_MAX: usize = 8;
/// What an answer over UDP may have at most, as fragments get lost: DNS flag day 2020.
pub(crate) const UDP_BYTES_MAX: u16 = 1232;

/// The names that this server alone is responsible for.
#[derive(Debug, Clone)]
pub struct Zone {
    /// `cluster.local.`
    name: Name,
}

/// What to do with a question.
#[derive(Debug)]
pub enum Answer {
    Done(Message),
    /// Not of this zone: ask others, or give this where there are none.
    Elsewhere {
        without: Message,
    },
    /// So far, and the rest is what others answer for this name.
    Continue {
        begun: Message,
        target: Name,
    },
}

/// What exists under a name.
enum Found {
    /// No such name.
    Nothing,
    /// The name exists; these are its records of the asked type, perhaps none.
    Here {
        answers: Vec<RData>,
        additional: Vec<(Name, RData)>,
    },
    Alias(Name),
}

impl Found {
    fn records(answers: Vec<RData>) -> Self {
        Found::Here { answers, additional: Vec::new() }
    }
}

impl Zone {
    /// Of a domain such as `cluster.local`.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        let mut name = Name::from_ascii(domain)?.to_lowercase();
        name.set_fqdn(true);
        Ok(Zone { name })
    }

    /// Answers one well-formed request. Not for requests with more or less than one question.
    pub fn answer(&self, request: &Message, records: &Records) -> Answer {
        let mut response = response_to(request);
        let Some(query) = request.queries.first().filter(|_| request.queries.len() == 1) else {
            return Answer::Done(refuse(response, ResponseCode::FormErr));
        };
        if request.metadata.op_code != OpCode::Query {
            return Answer::Done(refuse(response, ResponseCode::NotImp));
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return Answer::Done(refuse(response, ResponseCode::BADVERS));
        }
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Answer::Done(refuse(response, ResponseCode::Refused));
        }
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Answer::Done(refuse(response, ResponseCode::Refused));
        }
        if let Some(answer) = self.reverse(query, records, &mut response) {
            return answer;
        }
        if !self.name.zone_of(query.name()) {
            return Answer::Elsewhere { without: refuse(response, ResponseCode::ServFail) };
        }
        self.forward_lookup(query, records, response)
    }

    fn forward_lookup(&self, query: &Query, records: &Records, mut response: Message) -> Answer {
        response.metadata.authoritative = true;
        // Answers repeat the question's own spelling, which some clients use as a nonce.
        let mut owner = query.name().clone();
        for _ in 0..CHAIN_MAX {
            match self.find(&owner.to_lowercase(), query.query_type(), records) {
                Found::Nothing => {
                    response.metadata.response_code = ResponseCode::NXDomain;
                    response.add_authority(self.soa());
                    return Answer::Done(response);
                }
                Found::Here { answers, additional } => {
                    if answers.is_empty() {
                        response.add_authority(self.soa());
                    }
                    response.add_answers(answers.into_iter().map(|data| record(&owner, data)));
                    response.add_additionals(additional.into_iter().map(|(name, data)| record(&name, data)));
                    return Answer::Done(response);
                }
                Found::Alias(target) => {
                    response.add_answer(record(&owner, RData::CNAME(CNAME(target.clone()))));
                    if query.query_type() == RecordType::CNAME {
                        return Answer::Done(response);
                    }
                    if !self.name.zone_of(&target) {
                        return Answer::Continue { begun: response, target };
                    }
                    owner = target;
                }
            }
        }
        Answer::Done(refuse(response, ResponseCode::ServFail))
    }

    /// Looks a lower-case name of this zone up.
    fn find(&self, name: &Name, wanted: RecordType, records: &Records) -> Found {
        let depth = usize::from(name.num_labels() - self.name.num_labels());
        let labels: Option<Vec<&str>> =
            name.iter().take(depth).map(|label| std::str::from_utf8(label).ok()).collect();
        let Some(labels) = labels else { return Found::Nothing };
        match labels.as_slice() {
            [] => Found::records(match wanted {
                RecordType::SOA => vec![self.soa().data],
                RecordType::NS => vec![RData::NS(NS(self.server()))],
                _ => Vec::new(),
            }),
            ["dns-version"] => Found::records(match wanted {
                RecordType::TXT => vec![RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))],
                _ => Vec::new(),
            }),
            ["svc" | "pod"] => Found::records(Vec::new()),
            [namespace, "svc"] => exists(records.has_namespace(namespace)),
            [namespace, "pod"] => exists(records.has_pods(namespace)),
            [address, namespace, "pod"] => match undashed(address) {
                Some(address) if records.has_pod(namespace, address) => {
                    Found::records(of_type([address], wanted))
                }
                _ => Found::Nothing,
            },
            [below @ .., service, namespace, "svc"] => {
                let key = ObjectKey::new(*namespace, *service);
                match records.service(&key) {
                    Some(service) => self.service(&key, service, below, wanted, records),
                    None => Found::Nothing,
                }
            }
            _ => Found::Nothing,
        }
    }

    /// A service's own name (`below` is empty) and the names below it.
    fn service(
        &self,
        key: &ObjectKey,
        service: &ServiceRecord,
        below: &[&str],
        wanted: RecordType,
        records: &Records,
    ) -> Found {
        let published = |endpoint: &&Endpoint| endpoint.ready || service.publish_not_ready;
        match (&service.kind, below) {
            (ServiceKind::External(target), []) => match Name::from_ascii(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    Found::Alias(target)
                }
                Err(_) => Found::Nothing,
            },
            (ServiceKind::External(_), _) => Found::Nothing,
            (ServiceKind::Cluster(addresses), []) => {
                let mut answers = of_type(addresses.iter().copied(), wanted);
                let mut additional = Vec::new();
                if wanted == RecordType::SRV {
                    let named = service.ports.iter().filter(|port| !port.name.is_empty());
                    answers = named.map(|port| self.srv(port, self.service_name(key))).collect();
                    additional = self.glue(self.service_name(key), addresses);
                }
                Found::Here { answers, additional }
            }
            (ServiceKind::Headless, []) => {
                let endpoints = records.slices(key).flat_map(|slice| &slice.endpoints).filter(published);
                let mut addresses: Vec<IpAddr> =
                    endpoints.flat_map(|e| e.addresses.iter().copied()).collect();
                addresses.sort();
                addresses.dedup();
                // Specification 2.4.1: without ready endpoints the name doesn't exist.
                if addresses.is_empty() {
                    return Found::Nothing;
                }
                match wanted {
                    RecordType::SRV => self.headless_srv(key, service, records, |port| !port.name.is_empty()),
                    _ => Found::records(of_type(addresses, wanted)),
                }
            }
            (_, [protocol]) if protocol.starts_with('_') => {
                let of_protocol = |port: &Port| protocol[1..] == port.protocol && !port.name.is_empty();
                exists(self.has_port(key, service, records, of_protocol))
            }
            (kind, [port, protocol]) if port.starts_with('_') && protocol.starts_with('_') => {
                let (name, protocol) = (&port[1..], &protocol[1..]);
                let is_it = |port: &Port| !name.is_empty() && port.name == name && port.protocol == protocol;
                if !self.has_port(key, service, records, is_it) {
                    return Found::Nothing;
                }
                match (kind, wanted) {
                    (ServiceKind::Headless, RecordType::SRV) => {
                        self.headless_srv(key, service, records, is_it)
                    }
                    (ServiceKind::Cluster(addresses), RecordType::SRV) => {
                        let ports = service.ports.iter().filter(|port| is_it(port));
                        let answers = ports.map(|port| self.srv(port, self.service_name(key))).collect();
                        Found::Here { answers, additional: self.glue(self.service_name(key), addresses) }
                    }
                    _ => Found::records(Vec::new()),
                }
            }
            (_, [label]) => {
                let endpoints = records.slices(key).flat_map(|slice| &slice.endpoints).filter(published);
                let pairs = endpoints.flat_map(|e| e.addresses.iter().map(move |address| (e, *address)));
                let addresses: Vec<IpAddr> = pairs
                    .filter(|(e, address)| e.label(*address) == *label)
                    .map(|(_, address)| address)
                    .collect();
                match addresses.is_empty() {
                    true => Found::Nothing,
                    false => Found::records(of_type(addresses, wanted)),
                }
            }
            _ => Found::Nothing,
        }
    }

    /// A headless service's ports are its slices': a named target port may differ from pod to pod.
    fn headless_srv(
        &self,
        key: &ObjectKey,
        service: &ServiceRecord,
        records: &Records,
        is_it: impl Fn(&Port) -> bool,
    ) -> Found {
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        for slice in records.slices(key) {
            for endpoint in slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
                for address in &endpoint.addresses {
                    let Some(target) = below(&self.service_name(key), &endpoint.label(*address)) else {
                        continue;
                    };
                    let mut ports = slice.ports.iter().filter(|port| is_it(port)).peekable();
                    if ports.peek().is_some() {
                        additional.extend(self.glue(target.clone(), &[*address]));
                    }
                    answers.extend(ports.map(|port| self.srv(port, target.clone())));
                }
            }
        }
        Found::Here { answers, additional }
    }

    fn has_port(
        &self,
        key: &ObjectKey,
        service: &ServiceRecord,
        records: &Records,
        is_it: impl Fn(&Port) -> bool,
    ) -> bool {
        let published =
            |slice: &SliceRecord| slice.endpoints.iter().any(|e| e.ready || service.publish_not_ready);
        match service.kind {
            ServiceKind::Headless => records
                .slices(key)
                .filter(|slice| published(slice))
                .any(|slice| slice.ports.iter().any(&is_it)),
            _ => service.ports.iter().any(is_it),
        }
    }

    /// `None` if the name is no reverse one.
    fn reverse(&self, query: &Query, records: &Records, response: &mut Message) -> Option<Answer> {
        let network = query.name().to_lowercase().parse_arpa_name().ok()?;
        let mut names = Vec::new();
        if network.prefix_len() == network.max_prefix_len() {
            let address = network.addr();
            names.extend(records.service_at(address).map(|key| self.service_name(key)));
            for (key, endpoint) in records.endpoints_at(address) {
                names.extend(below(&self.service_name(key), &endpoint.label(address)));
            }
            names.dedup();
        }
        let mut response = response.clone();
        if names.is_empty() {
            // Nobody else knows either where there is no uplink: say so, rather than let clients wait.
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authority(self.soa());
            return Some(Answer::Elsewhere { without: response });
        }
        response.metadata.authoritative = true;
        if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
            response.add_answers(names.into_iter().map(|name| record(query.name(), RData::PTR(PTR(name)))));
        } else {
            response.add_authority(self.soa());
        }
        Some(Answer::Done(response))
    }

    fn service_name(&self, key: &ObjectKey) -> Name {
        let name = below(&self.name, "svc").and_then(|name| below(&name, &key.namespace));
        // Names of the API are short labels, and the zone is bounded by its constructor's user.
        name.and_then(|name| below(&name, &key.name)).unwrap_or_else(|| self.name.clone())
    }

    fn srv(&self, port: &Port, target: Name) -> RData {
        RData::SRV(SRV::new(0, 100, port.number, target))
    }

    fn glue(&self, name: Name, addresses: &[IpAddr]) -> Vec<(Name, RData)> {
        addresses.iter().map(|address| (name.clone(), address_data(*address))).collect()
    }

    fn server(&self) -> Name {
        below(&self.name, "dns").and_then(|name| below(&name, "ns")).unwrap_or_else(|| self.name.clone())
    }

    fn soa(&self) -> Record {
        let contact = below(&self.name, "hostmaster").unwrap_or_else(|| self.name.clone());
        // The serial says nothing, as there are no secondary servers; the last number bounds negative caching.
        let soa = SOA::new(self.server(), contact, 1, 7200, 1800, 86400, TTL);
        record(&self.name, RData::SOA(soa))
    }
}

/// A response that repeats the request's identity and question, and has nothing else yet.
pub(crate) fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX);
        response.set_edns(edns);
    }
    response
}

pub(crate) fn refuse(mut response: Message, code: ResponseCode) -> Message {
    response.metadata.response_code = code;
    response
}

/// The bytes of a response of at most `bytes_max`. What doesn't fit is left out: first what was not asked
/// for, then answers, which is marked as truncation, so that the client asks again over TCP.
pub(crate) fn encode(mut response: Message, bytes_max: usize) -> Option<Vec<u8>> {
    let mut bytes = response.to_vec().ok();
    if bytes.as_ref().is_none_or(|bytes| bytes.len() > bytes_max) {
        response.additionals.clear();
        bytes = response.to_vec().ok();
    }
    while bytes.as_ref().is_none_or(|bytes| bytes.len() > bytes_max) {
        if response.answers.is_empty() {
            return response.truncate().to_vec().ok();
        }
        response.metadata.truncation = true;
        response.answers.truncate(response.answers.len() * 3 / 4);
        bytes = response.to_vec().ok();
    }
    bytes
}

fn exists(it_does: bool) -> Found {
    if it_does { Found::records(Vec::new()) } else { Found::Nothing }
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL, data)
}

fn of_type(addresses: impl IntoIterator<Item = IpAddr>, wanted: RecordType) -> Vec<RData> {
    let fits = |address: &IpAddr| match wanted {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    addresses.into_iter().filter(fits).map(address_data).collect()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn below(parent: &Name, label: &str) -> Option<Name> {
    parent.prepend_label(label).ok()
}
