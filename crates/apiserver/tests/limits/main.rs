//! What one client may take, shown with real sockets: each bound is reached by a client that does harm, while
//! another one is served.

mod frames;
mod served;
#[path = "../api/socket.rs"]
mod socket;

use std::time::Duration;

use frames::{Frames, Said};
use served::{SILENT, Served, Socket, Unread};
use skiff_apiserver::Limits;

/// Long enough for a client that keeps to it, on a machine with much else to do.
const SHORT: Duration = Duration::from_secs(1);
/// A review of oneself, which everybody who is known may ask for.
const REVIEW: &str = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nhost: a\r\n\
                      content-type: application/json\r\n";
const BODY: &str = r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;

fn review() -> String {
    format!("{REVIEW}content-length: {}\r\n\r\n{BODY}", BODY.len())
}

/// A review whose body never comes.
fn held() -> String {
    format!("{REVIEW}content-length: {}\r\n\r\n", BODY.len())
}

#[tokio::test]
async fn a_header_that_never_ends_is_cut_off_and_others_are_served() {
    let served = Served::start(Limits { header_timeout: SHORT, ..Limits::default() }).await;
    let mut slow = served.connect(SILENT).await.expect("connects");
    slow.send("GET /version HTTP/1.1\r\nhost: a\r\nx-slow: ").await;
    let mut other = served.connect(SILENT).await.expect("connects");
    assert_eq!(other.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    slow.closed().await;

    // A header in pieces within the time is one like any other.
    let mut pieces = served.connect(SILENT).await.expect("connects");
    pieces.send("GET /version HTTP/1.1\r\nho").await;
    assert_eq!(pieces.ask("st: a\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_says_nothing_ends() {
    let limits = Limits { handshake_timeout: SHORT, idle_timeout: SHORT, ..Limits::default() };
    let served = Served::start(limits).await;
    served.raw().await.closed().await;
    served.connect(SILENT).await.expect("connects").closed().await;
    let mut used = served.connect(SILENT).await.expect("connects");
    assert_eq!(used.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    used.closed().await;
}

#[tokio::test]
async fn a_watch_may_be_silent() {
    let limits = Limits { idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() };
    let served = Served::start(limits).await;
    let mut watch = served.connect(&served.admin()).await.expect("connects");
    watch.send("GET /api/v1/configmaps?watch=true HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(watch.head().await.status, 200);
    let idle = served.connect(SILENT).await.expect("connects");
    idle.closed().await;
    let mut writer = served.connect(&served.admin()).await.expect("connects");
    let map = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"seen"}}"#;
    let create = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: a\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{map}",
        map.len()
    );
    assert_eq!(writer.ask(&create).await.status, 201);
    watch.until(r#""name":"seen""#).await;
}

#[tokio::test]
async fn a_body_over_3_mib_is_refused_and_one_of_3_mib_is_read() {
    let served = Served::start(Limits::default()).await;
    let limit = 3 * 1024 * 1024;
    for (size, status) in [(limit, 400), (limit + 1, 413)] {
        let mut client = served.connect(&served.user("jane")).await.expect("connects");
        let body = "x".repeat(size);
        let answer = client.ask(&format!("{REVIEW}content-length: {size}\r\n\r\n{body}")).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 413 {
            assert_eq!(answer.json()["reason"], "RequestEntityTooLarge");
            assert_eq!(answer.json()["message"], "Request entity too large: limit is 3145728");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_comes() {
    let served = Served::start(Limits::default()).await;
    let over = 3 * 1024 * 1024 + 1;
    let announced = format!("{REVIEW}content-length: {over}\r\n\r\n");
    let waiting = format!("{REVIEW}expect: 100-continue\r\ncontent-length: {over}\r\n\r\n");
    // The chunk that would end the body never comes.
    let chunk = format!("{REVIEW}transfer-encoding: chunked\r\n\r\n{over:x}\r\n{}\r\n", "x".repeat(over));
    for request in [announced, waiting, chunk] {
        let mut client = served.connect(&served.user("jane")).await.expect("connects");
        let answer = client.ask(&request).await;
        assert_eq!(answer.status, 413, "{}", answer.body);
        assert_eq!(answer.json()["message"], "Request entity too large: limit is 3145728");
        client.closed().await;
    }
}

#[tokio::test]
async fn plain_http_is_told_that_this_is_tls() {
    let served = Served::start(Limits::default()).await;
    let mut plain = served.raw().await;
    plain.send("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let told = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    assert_eq!(plain.rest().await, told);
    // Whatever else is no TLS gets TLS's own word, and no HTTP.
    let mut other = served.raw().await;
    other.send("SSH-2.0-OpenSSH_9.6\r\n").await;
    assert!(!other.rest().await.contains("HTTP"));
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let served = Served::start(Limits { body_timeout: SHORT, ..Limits::default() }).await;
    let mut slow = served.connect(&served.user("jane")).await.expect("connects");
    let answer = slow.ask(&held()).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["reason"], "Timeout");
    assert_eq!(answer.json()["message"], "Timeout: request did not complete within the allotted timeout");
}

#[tokio::test]
async fn connections_of_one_address_leave_room_for_others() {
    let limits = Limits { connections_per_source_max: 2, connections_max: 4, ..Limits::default() };
    let served = Served::start(limits).await;
    let user = served.user("jane");
    let first = served.connect(&user).await.expect("room");
    let _second = served.connect(&user).await.expect("room");
    assert!(served.connect(&user).await.is_err(), "the third of this address");
    let mut other = served.connect_from([127, 0, 0, 2], &user).await.expect("room");
    assert_eq!(other.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    assert!(
        served.connect_from([127, 0, 0, 3], &user).await.is_err(),
        "the fourth of all, but for strangers"
    );
    let mut stranger = served.connect_from([127, 0, 0, 3], SILENT).await.expect("room for one");
    assert_eq!(stranger.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    drop(first);
    served.connected(&user).await;
}

#[tokio::test]
async fn strangers_keep_nobody_out_however_many_they_are() {
    let served = Served::start(Limits { connections_max: 16, ..Limits::default() }).await;
    let (node, user) = (served.node("n1"), served.user("jane"));
    let mut jane = served.connect(&user).await.expect("room");
    let mut all = Vec::new();
    for source in 2..12 {
        for _ in 0..20 {
            all.push(served.raw_from([127, 0, 0, source]).await);
        }
    }
    // From the very addresses, too.
    for (source, who) in [(2, &node), (1, &served.admin()), (3, &user)] {
        let mut socket = served.connect_from([127, 0, 0, source], who).await.expect("room");
        assert_eq!(socket.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
        all.push(socket);
    }
    assert_eq!(jane.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200, "she is known");
    // The oldest went, without a word.
    assert_eq!(all[0].rest().await, "");
}

#[tokio::test]
async fn who_floods_is_told_to_come_back_and_others_are_not() {
    let served = Served::start(Limits { mutating_inflight_max: 10, ..Limits::default() }).await;
    let (flood, other) = (served.user("flood"), served.user("other"));
    let mut held_open: Vec<Socket> = Vec::new();
    for _ in 0..8 {
        let mut socket = served.connect(&flood).await.expect("connects");
        socket.send(&held()).await;
        held_open.push(socket);
    }
    // The server has read the eight headers when the next one of the same user is refused.
    let mut ninth = served.connect(&flood).await.expect("connects");
    let refused = ninth.until_status(&review(), 429).await;
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    let status = refused.json();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["message"], "Too many requests, please try again later.");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);

    let mut client = served.connect(&other).await.expect("connects");
    assert_eq!(client.ask(&review()).await.status, 201, "another user has room");
    assert_eq!(ninth.ask("GET /version HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200, "reading does too");
    let mut admin = served.connect(&served.admin()).await.expect("connects");
    assert_eq!(admin.ask(&review()).await.status, 201, "administrators are not refused");

    drop(held_open);
    ninth.until_status(&review(), 201).await;
}

/// Until so many requests that write are in flight.
async fn until_writing(served: &Served, count: usize) {
    let mut admin = served.connect(&served.admin()).await.expect("connects");
    let counted = async {
        loop {
            let text = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.body;
            let name = "apiserver_current_inflight_requests{request_kind=\"mutating\"}";
            if metric(&text, name, &[]) == Some(count as f64) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(served::PATIENCE, counted).await.expect("they are let in")
}

/// A namespace's administrator makes as many service accounts as they like.
#[tokio::test]
async fn accounts_of_one_namespace_lock_nobody_out() {
    let served = Served::start(Limits { mutating_inflight_max: 20, ..Limits::default() }).await;
    let mut admin = served.connect(&served.admin()).await.expect("connects");
    let mut create = async |path: &str, body: &str| {
        let length = body.len();
        let head = format!("POST /api/v1/namespaces/default/serviceaccounts{path} HTTP/1.1\r\nhost: a\r\n");
        let rest = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        let made = admin.ask(&format!("{head}{rest}")).await;
        assert_eq!(made.status, 201, "{}", made.body);
        made.json()
    };
    let mut tokens = Vec::new();
    for n in 0..8 {
        create("", &format!(r#"{{"metadata":{{"name":"a{n}"}}}}"#)).await;
        let asked = create(&format!("/a{n}/token"), r#"{"spec":{}}"#).await;
        tokens.push(asked["status"]["token"].as_str().expect("a token").to_owned());
    }
    let by = |token: &str, request: &str| {
        request.replacen("host: a\r\n", &format!("host: a\r\nauthorization: Bearer {token}\r\n"), 1)
    };
    let mut held_open: Vec<Socket> = Vec::new();
    for token in &tokens {
        for _ in 0..4 {
            let mut socket = served.connect(SILENT).await.expect("connects");
            socket.send(&by(token, &held())).await;
            held_open.push(socket);
        }
    }
    // Two thirds of the three quarters that are not kept for people.
    until_writing(&served, 10).await;
    let mut last = served.connect(SILENT).await.expect("connects");
    assert_eq!(last.ask(&by(&tokens[7], &review())).await.status, 429);
    let mut jane = Vec::new();
    for _ in 0..3 {
        let mut socket = served.connect(&served.user("jane")).await.expect("connects");
        socket.send(&held()).await;
        jane.push(socket);
    }
    let mut john = served.connect(&served.user("john")).await.expect("connects");
    assert_eq!(john.ask(&review()).await.status, 201, "people get on");
    for mut socket in jane {
        assert_eq!(socket.ask(BODY).await.status, 201, "each of hers was let in");
    }
}

/// Bodies that have not come leave room to what is done at once, also of the same user.
#[tokio::test]
async fn bodies_that_never_end_leave_room_to_their_own_user() {
    let served = Served::start(Limits { mutating_inflight_max: 10, ..Limits::default() }).await;
    let jane = served.user("jane");
    let mut held_open: Vec<Socket> = Vec::new();
    // Seven are two thirds of the room.
    for _ in 0..7 {
        let mut socket = served.connect(&jane).await.expect("connects");
        socket.send(&held()).await;
        held_open.push(socket);
    }
    until_writing(&served, 7).await;
    let mut next = served.connect(&jane).await.expect("connects");
    assert_eq!(next.ask(&review()).await.status, 429);
    // A deletion of what is not there has no body to wait for.
    let mut other = served.connect(&jane).await.expect("connects");
    let delete = "DELETE /api/v1/namespaces/default/configmaps/none HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(other.ask(delete).await.status, 403, "she is let in, and may not");
    // One whose body has come is waited for no longer.
    let mut done = held_open.remove(0);
    assert_eq!(done.ask(BODY).await.status, 201);
    next.until_status(&review(), 201).await;
}

#[tokio::test]
async fn a_nodes_connections_and_watches_are_its_own_and_bounded() {
    let limits = Limits {
        connections_per_node_max: 2,
        connections_of_administrators_max: 2,
        watches_per_node_max: 1,
        ..Limits::default()
    };
    let served = Served::start(limits).await;
    let (n1, n2, admin) = (served.node("n1"), served.node("n2"), served.admin());
    let mut first = served.connect(&n1).await.expect("room");
    let mut second = served.connect(&n1).await.expect("room");
    assert!(served.connect(&n1).await.is_err(), "the third of its certificate");
    assert!(served.connect_from([127, 0, 0, 2], &n1).await.is_err(), "from wherever");
    let _other = served.connect(&n2).await.expect("another node has places of its own");
    let _user = served.connect(&served.user("jane")).await.expect("and so has who is no node");
    let _admins = [served.connect(&admin).await.expect("room"), served.connect(&admin).await.expect("room")];
    assert!(served.connect(&admin).await.is_err(), "theirs have a bound, too");

    const WATCH: &str = "GET /api/v1/services?watch=true HTTP/1.1\r\nhost: a\r\n\r\n";
    first.send(WATCH).await;
    assert_eq!(first.head().await.status, 200);
    let refused = second.ask(WATCH).await;
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (429, Some("1")));
    assert_eq!(refused.json()["message"], "Too many watches of one node, please try again later.");
    drop(first);
    served.connected(&n1).await;
    second.until_status("GET /api/v1/services HTTP/1.1\r\nhost: a\r\n\r\n", 200).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up() {
    let limits = Limits { stall_timeout: SHORT, connections_per_source_max: 1, ..Limits::default() };
    let served = Served::start(limits).await;
    let mut deaf = served.connect(&served.user("deaf")).await.expect("connects");
    // More than the socket's buffers hold.
    for _ in 0..40 {
        deaf.send("GET /openapi/v2 HTTP/1.1\r\nhost: a\r\naccept: application/json\r\n\r\n").await;
    }
    // There is room for one connection: the deaf one is gone when another comes in.
    served.connected(&served.user("jane")).await;
}

/// A list of many megabytes, asked for by HTTP/2 that many times and not read.
async fn unread_lists(served: &Served, count: usize) -> Unread {
    unread(served, "", count).await
}

/// The same with a query.
async fn unread(served: &Served, query: &str, count: usize) -> Unread {
    let admin = served.admin();
    let mut client = served.connect(&admin).await.expect("connects");
    let map =
        serde_json::json!({"metadata": {"name": "large"}, "data": {"a": "x".repeat(900_000)}}).to_string();
    let path = "/api/v1/namespaces/default/configmaps";
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let made = client.ask(&format!("{head}content-length: {}\r\n\r\n{map}", map.len())).await;
    assert_eq!(made.status, 201);
    served.unread_by_http2(&admin, &format!("{path}{query}"), count).await
}

/// On HTTP/2 nothing is written while a client gives no room for it, and what it asked for lies in memory.
#[tokio::test]
async fn an_answer_that_nobody_reads_is_given_up_on_http2_too() {
    let served = Served::start(Limits { stall_timeout: SHORT, ..Limits::default() }).await;
    unread_lists(&served, 3).await.ended().await;
}

/// A watch may be silent for as long as it likes, but not deaf.
#[tokio::test]
async fn a_watch_whose_events_nobody_takes_is_given_up() {
    let served = Served::start(Limits { stall_timeout: SHORT, ..Limits::default() }).await;
    unread(&served, "?watch=true", 1).await.ended().await;
}

#[tokio::test]
async fn who_watches_too_much_is_told_to_come_back_and_others_are_not() {
    let served = Served::start(Limits { watches_per_user_max: 2, ..Limits::default() }).await;
    let mut admin = served.connect(&served.admin()).await.expect("connects");
    for user in ["jane", "john"] {
        let binding = format!(
            r#"{{"metadata":{{"name":"{user}"}},"roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}},"subjects":[{{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"{user}"}}]}}"#
        );
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        let create = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{binding}",
            binding.len()
        );
        assert_eq!(admin.ask(&create).await.status, 201);
    }
    const WATCH: &str = "GET /api/v1/configmaps?watch=true HTTP/1.1\r\nhost: a\r\n\r\n";
    let watch = async |client| {
        let mut socket = served.connect(&client).await.expect("connects");
        socket.send(WATCH).await;
        let status = socket.head().await.status;
        (socket, status)
    };
    let (first, status) = watch(served.user("jane")).await;
    assert_eq!(status, 200);
    let (_second, status) = watch(served.user("jane")).await;
    assert_eq!(status, 200);
    let mut third = served.connect(&served.user("jane")).await.expect("connects");
    let refused = third.ask(WATCH).await;
    assert_eq!((refused.status, refused.header("retry-after").as_deref()), (429, Some("1")));
    assert_eq!(refused.json()["message"], "Too many watches of one user, please try again later.");
    let list = third.ask("GET /api/v1/configmaps HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(list.status, 200, "she may ask for what is there");
    let mut held = vec![watch(served.user("john")).await];
    for _ in 0..3 {
        held.push(watch(served.admin()).await);
    }
    assert!(held.iter().all(|(_, status)| *status == 200));
    // A watch that ends makes room.
    drop(first);
    let opened = async {
        loop {
            let (socket, status) = watch(served.user("jane")).await;
            if status == 200 {
                return socket;
            }
        }
    };
    tokio::time::timeout(served::PATIENCE, opened).await.expect("there is room again");
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_has_been_taken() {
    let served = Served::start(Limits::default()).await;
    let inflight = async || {
        let mut admin = served.connected(&served.admin()).await;
        let text = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.body;
        metric(&text, "apiserver_current_inflight_requests{request_kind=\"readOnly\"}", &[])
    };
    let unread = unread_lists(&served, 5).await;
    let before = inflight().await.expect("a number");
    assert!(before >= 5.0, "{before}");
    unread.end();
    while inflight().await.is_some_and(|now| now >= 5.0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_asks_for_headers_by_http2_gets_headers() {
    let served = Served::start(Limits::default()).await;
    assert_eq!(served.head_by_http2(&served.admin(), "/healthz").await, (200, "2".to_owned(), 0));
    let (status, length, came) = served.head_by_http2(&served.admin(), "/api/v1/namespaces/default").await;
    assert_eq!((status, came), (405, 0));
    assert!(length.parse::<usize>().is_ok_and(|length| length > 100), "{length}");
}

/// HPACK's index of `:status: 404`.
const NOT_FOUND: Said = Said::Head(0x8d);

#[tokio::test]
async fn an_answer_before_the_body_does_not_close_the_stream_to_it() {
    let served = Served::start(Limits::default()).await;
    let mut client = Frames::new(served.http2(&served.admin()).await).await;
    client.post("/apis/nowhere/v1/things").await;
    assert_eq!(client.answer().await, NOT_FOUND);
    // Some clients lose the answer when their stream is reset while they send.
    client.ping().await;
    assert_eq!(client.said().await, Said::Pong);
    client.body(b"{", false).await;
    client.body(b"}", true).await;
    client.ping().await;
    assert_eq!(client.said().await, Said::Pong, "the stream has ended from both sides");
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_not_waited_for_without_end() {
    let served = Served::start(Limits { body_timeout: SHORT, ..Limits::default() }).await;
    let mut client = Frames::new(served.http2(&served.admin()).await).await;
    client.post("/apis/nowhere/v1/things").await;
    assert_eq!(client.answer().await, NOT_FOUND);
    assert_eq!(client.said().await, Said::Reset { code: 0 }, "no error, as RFC 9113 §8.1 has it");
}

#[tokio::test]
async fn requests_taken_back_again_and_again_end_the_connection() {
    let served = Served::start(Limits { cancelled_max: 20, ..Limits::default() }).await;
    assert!(served.reset_streams(&served.user("jane"), 10).await, "some are forgiven");
    assert!(!served.reset_streams(&served.user("jane"), 60).await, "many are not");
}

/// The value of the first line of `/metrics` that begins so and has these parts.
fn metric(text: &str, start: &str, parts: &[&str]) -> Option<f64> {
    let line =
        text.lines().find(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn metrics_count_what_was_asked_and_are_not_for_everybody() {
    let served = Served::start(Limits::default()).await;
    let mut nobody = served.connect(SILENT).await.expect("connects");
    let metrics = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(nobody.ask(metrics).await.status, 403);
    let mut admin = served.connect(&served.admin()).await.expect("connects");
    for (path, status) in [("pods", 200), ("pods", 200), ("pods/absent", 404)] {
        let asked = format!("GET /api/v1/namespaces/default/{path} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(admin.ask(&asked).await.status, status);
    }
    let answer = admin.ask(metrics).await;
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = &answer.body;
    let pods = ["resource=\"pods\"", "component=\"apiserver\""];
    let of = |verb: &'static str| [pods[0], pods[1], verb];
    assert_eq!(metric(text, "apiserver_request_total{code=\"200\"", &of("verb=\"LIST\"")), Some(2.0));
    assert_eq!(metric(text, "apiserver_request_total{code=\"404\"", &of("verb=\"GET\"")), Some(1.0));
    assert_eq!(metric(text, "apiserver_request_duration_seconds_count", &of("verb=\"LIST\"")), Some(2.0));
    // The one that asks, and nobody else.
    assert_eq!(
        metric(text, "apiserver_current_inflight_requests{request_kind=\"readOnly\"}", &[]),
        Some(1.0)
    );
    assert_eq!(metric(text, "apiserver_storage_objects{resource=\"pods\"}", &[]), Some(0.0));
    assert_eq!(metric(text, "skiff_connections", &[]), Some(2.0));
    assert!(metric(text, "process_open_fds", &[]).is_some_and(|count| count > 3.0));
}

#[tokio::test]
async fn a_large_answer_is_packed_for_who_takes_it_so() {
    let served = Served::start(Limits::default()).await;
    let mut client = served.connect(&served.admin()).await.expect("connects");
    let asked = |path: &str, coding: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\naccept: application/json\r\naccept-encoding: {coding}\r\n\r\n"
        )
    };
    let plain = client.ask(&asked("/openapi/v2", "identity")).await;
    assert_eq!(plain.header("content-encoding"), None);
    assert!(plain.body.len() > 128 * 1024);
    let packed = client.ask(&asked("/openapi/v2", "gzip")).await;
    assert_eq!(packed.header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(packed.gunzip(), plain.body);
    let small = client.ask(&asked("/api/v1/namespaces", "gzip")).await;
    assert_eq!((small.status, small.header("content-encoding")), (200, None));
}
