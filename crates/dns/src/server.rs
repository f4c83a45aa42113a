//! The sockets: UDP and TCP on one address, everything bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tracing::debug;

use crate::answer::{Answer, UDP_BYTES_MAX, Zone, encode, refuse, response_to};
use crate::forward::{PATIENCE, Servers, Transport, ask};
use crate::records::Records;
use crate::sources::Sources;

/// Questions that wait for other servers, in all and of one client.
const FORWARDS_MAX: usize = 512;
const FORWARDS_PER_SOURCE_MAX: usize = 64;
const CONNECTIONS_MAX: usize = 512;
const CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// A question has one name; this leaves room for options.
const REQUEST_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 12;
const CONNECTION_IDLE: Duration = Duration::from_secs(10);

/// What all requests share.
pub(crate) struct Shared {
    pub zone: Zone,
    pub forwarders: Servers,
    /// With each of them.
    pub patience: Duration,
    /// A silent connection is closed after this.
    pub idle: Duration,
    pub records: RwLock<Records>,
    /// The records have been complete once. Before that a name may exist that isn't known yet.
    pub ready: std::sync::atomic::AtomicBool,
    forwards: Sources,
    connections: Sources,
    turn: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(zone: Zone, forwarders: Servers, records: Records) -> Self {
        Shared {
            zone,
            forwarders,
            patience: PATIENCE,
            idle: CONNECTION_IDLE,
            records: RwLock::new(records),
            ready: false.into(),
            forwards: Sources::new(FORWARDS_MAX, FORWARDS_PER_SOURCE_MAX),
            connections: Sources::new(CONNECTIONS_MAX, CONNECTIONS_PER_SOURCE_MAX),
            turn: AtomicUsize::new(0),
        }
    }

    /// Answers at once, or says what is to be asked elsewhere. `None`: nothing that deserves an answer.
    fn begin(&self, packet: &[u8]) -> Option<(Message, Answer)> {
        let request = match parse(packet) {
            Parsed::Request(request) => request,
            Parsed::Malformed(response) => return Some((response.clone(), Answer::Done(response))),
            Parsed::Noise => return None,
        };
        let answer = self.zone.answer(&request, &self.records.read());
        let unready = !self.ready.load(Ordering::Acquire) && !matches!(answer, Answer::Elsewhere { .. });
        if unready && request.metadata.op_code == OpCode::Query {
            let response = refuse(response_to(&request), ResponseCode::ServFail);
            return Some((request, Answer::Done(response)));
        }
        Some((request, answer))
    }

    /// Asks the forwarders where need be.
    async fn finish(
        &self,
        request: &Message,
        answer: Answer,
        (client, transport): (IpAddr, Transport),
    ) -> Message {
        match answer {
            Answer::Done(response) => response,
            Answer::Elsewhere { without } => match self.ask(request, client, transport).await {
                Some(mut response) => {
                    response.metadata.recursion_available = true;
                    response
                }
                None => without,
            },
            Answer::Continue { mut begun, target } => {
                let Some(query) = request.queries.first() else { return begun };
                let mut inner = Message::new(0, MessageType::Query, OpCode::Query);
                inner.metadata.recursion_desired = true;
                inner.add_query(Query::query(target, query.query_type()));
                // The alias alone is still an answer, which the client may follow by itself.
                if let Some(found) = self.ask(&inner, client, Transport::Tcp).await {
                    begun.metadata.response_code = found.metadata.response_code;
                    begun.add_answers(found.answers);
                    begun.metadata.authoritative = false;
                }
                begun
            }
        }
    }

    async fn ask(&self, request: &Message, client: IpAddr, transport: Transport) -> Option<Message> {
        // Too many wait already: a refusal now is better than an answer too late.
        let _place = self.forwards.enter(client)?;
        ask(&self.forwarders.now(), self.patience, request, transport).await
    }

    fn needs_others(&self, answer: &Answer) -> bool {
        !matches!(answer, Answer::Done(_)) && !self.forwarders.now().is_empty()
    }

    /// Spreads clients that take the first address over all of them.
    fn rotated(&self, mut response: Message) -> Message {
        let is_address = |record: &hickory_proto::rr::Record| {
            matches!(record.record_type(), RecordType::A | RecordType::AAAA)
        };
        let first = response.answers.iter().position(is_address).unwrap_or(response.answers.len());
        let addresses = &mut response.answers[first..];
        if addresses.len() > 1 && addresses.iter().all(is_address) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        response
    }
}

enum Parsed {
    Request(Message),
    /// The response that says so.
    Malformed(Message),
    Noise,
}

/// Looks at the counts before it lets the decoder reserve memory for them.
fn parse(packet: &[u8]) -> Parsed {
    if packet.len() < HEADER_BYTES || packet[2] & 0x80 != 0 {
        // Answering a response would let two servers talk for ever.
        return Parsed::Noise;
    }
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (questions, answers, authorities, additionals) = (number(4), number(6), number(8), number(10));
    let malformed = || {
        let op_code = OpCode::from_u8(packet[2] >> 3 & 0xf);
        Parsed::Malformed(Message::error_msg(number(0), op_code, ResponseCode::FormErr))
    };
    if packet.len() > REQUEST_BYTES_MAX || questions != 1 || answers > 0 || authorities > 0 || additionals > 2
    {
        return malformed();
    }
    match Message::from_vec(packet) {
        Ok(request) => Parsed::Request(request),
        Err(_) => malformed(),
    }
}

/// Serves both sockets until it is dropped or one of them fails for good.
pub(crate) async fn serve(shared: Arc<Shared>, udp: UdpSocket, tcp: TcpListener) -> io::Error {
    // Cancel-safe: each side keeps its own work, and both end together.
    tokio::select! {
        error = serve_udp(&shared, Arc::new(udp)) => error,
        error = serve_tcp(&shared, tcp) => error,
    }
}

async fn serve_udp(shared: &Arc<Shared>, socket: Arc<UdpSocket>) -> io::Error {
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; REQUEST_BYTES_MAX + 1];
    loop {
        let (count, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier response could not be delivered; that is that client's matter.
            Err(error) if is_about_a_peer(&error) => continue,
            Err(error) => return error,
        };
        while waiting.try_join_next().is_some() {}
        let Some((request, answer)) = shared.begin(&buffer[..count]) else { continue };
        let bytes_max = usize::from(request.max_payload().min(UDP_BYTES_MAX));
        if shared.needs_others(&answer) && waiting.len() < FORWARDS_MAX {
            let (shared, socket) = (shared.clone(), socket.clone());
            waiting.spawn(async move {
                let response = shared.finish(&request, answer, (client.ip(), Transport::Udp)).await;
                send(&socket, response, bytes_max, client).await;
            });
            continue;
        }
        let response = match answer {
            Answer::Done(response) | Answer::Elsewhere { without: response } => response,
            Answer::Continue { begun, .. } => begun,
        };
        send(&socket, shared.rotated(response), bytes_max, client).await;
    }
}

async fn send(socket: &UdpSocket, response: Message, bytes_max: usize, client: SocketAddr) {
    let Some(bytes) = encode(response, bytes_max) else { return };
    if let Err(error) = socket.send_to(&bytes, client).await {
        debug!(%client, %error, "response not sent");
    }
}

async fn serve_tcp(shared: &Arc<Shared>, listener: TcpListener) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                // One too many is closed at once: others are not to wait behind it.
                let Some(place) = shared.connections.enter(client.ip()) else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let _place = place;
                    if let Err(error) = serve_connection(&shared, stream, client.ip()).await {
                        debug!(%client, %error, "connection ended");
                    }
                });
            }
            Err(error) if is_about_a_peer(&error) => {}
            Err(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                // No more descriptors: wait until a connection ends.
                debug!(%error, "cannot accept");
                if connections.join_next().await.is_none() {
                    return error;
                }
            }
            Err(error) => return error,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(shared: &Shared, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
    let silent = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let request = async {
            let mut length = [0; 2];
            if stream.read(&mut length[..1]).await? == 0 {
                return Ok(None);
            }
            stream.read_exact(&mut length[1..]).await?;
            let length = usize::from(u16::from_be_bytes(length));
            if length > REQUEST_BYTES_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let mut packet = vec![0; length];
            stream.read_exact(&mut packet).await?;
            io::Result::Ok(Some(packet))
        };
        let Some(packet) = tokio::time::timeout(shared.idle, request).await.map_err(silent)?? else {
            return Ok(());
        };
        let Some((request, answer)) = shared.begin(&packet) else { return Ok(()) };
        let response = shared.finish(&request, answer, (client, Transport::Tcp)).await;
        let bytes = encode(shared.rotated(response), usize::from(u16::MAX)).unwrap_or_default();
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let reply = [&length.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(shared.idle, stream.write_all(&reply)).await.map_err(silent)??;
    }
}

fn is_about_a_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
    };
    use io::ErrorKind::{NetworkUnreachable, PermissionDenied};
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of its own (xorshift), so that a failure can be run again by its seed.
    fn noise(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed.max(1);
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        }
    }

    #[test]
    fn no_packet_brings_it_down_and_every_response_is_small_and_decodable() {
        let zone = Zone::new("cluster.local").unwrap();
        let nobody = Servers::new(([127, 0, 0, 1], 53).into(), crate::forward::Forwarders::These(vec![]));
        let shared = Shared::new(zone, nobody, Records::new(true));
        let mut good = Message::query();
        good.add_query(Query::query("a.b.svc.cluster.local.".parse().unwrap(), RecordType::A));
        let good = good.to_vec().unwrap();
        for seed in 1..20_000u64 {
            let mut next = noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let packet: Vec<u8> = if seed % 2 == 0 {
                (0..usize::from(next())).map(|_| next()).collect()
            } else {
                // Mostly right ones reach deeper.
                let mut packet = good.clone();
                for _ in 0..=next() % 4 {
                    let at = usize::from(next()) % packet.len();
                    packet[at] = next();
                }
                packet
            };
            if let Some((_, answer)) = shared.begin(&packet) {
                let response = match answer {
                    Answer::Done(response) | Answer::Elsewhere { without: response } => response,
                    Answer::Continue { begun, .. } => begun,
                };
                let bytes = encode(response, 512).unwrap_or_else(|| panic!("seed {seed}: not encodable"));
                assert!(bytes.len() <= 512, "seed {seed}: {} bytes", bytes.len());
                let response = Message::from_vec(&bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert_eq!(response.metadata.message_type, MessageType::Response, "seed {seed}");
                assert_eq!(bytes[..2], packet[..2], "seed {seed}: another ID");
            }
        }
    }

    #[test]
    fn counts_that_promise_more_than_a_question_are_refused_unread() {
        let mut packet = vec![0; HEADER_BYTES];
        packet[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
        assert!(matches!(parse(&packet), Parsed::Malformed(_)));
        // A response is never answered.
        packet[2] |= 0x80;
        assert!(matches!(parse(&packet), Parsed::Noise));
        assert!(matches!(parse(&packet[..5]), Parsed::Noise));
    }
}
