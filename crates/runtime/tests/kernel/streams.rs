//! Logs, commands, attachments and ports.

use std::fs;
use std::time::Duration;

use skiff_runtime::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{LONG, Node};

async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), what: &str) -> String {
    let mut text = String::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !text.contains(what) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
    };
    tokio::time::timeout(LONG, read).await.unwrap_or_else(|_| panic!("{what:?} comes"));
    text
}

#[tokio::test]
async fn long_lines_and_rotated_logs() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "head -c 20000 /dev/zero | tr '\\0' a; echo; read x < /tmp/go; echo after";
    let id = node.run_with(&sandbox, &format!("mkfifo /tmp/go; {script}"), |_| {}).await;
    // A line longer than a page may be seen in parts.
    let text = loop {
        let text = fs::read_to_string(node.log_path()).unwrap();
        if text.contains(" F ") && text.ends_with('\n') {
            break text;
        }
        tokio::task::yield_now().await;
    };
    let tags: Vec<(&str, usize)> = text
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.splitn(4, ' ').collect();
            (fields[2], fields[3].len())
        })
        .collect();
    assert_eq!(tags, [("P", 16384), ("F", 20000 - 16384)]);
    let old = node.dir.path().join("logs/main.log.1");
    fs::rename(node.log_path(), &old).unwrap();
    node.runtime.reopen_log(&id).await.unwrap();
    node.exec(&id, "echo > /tmp/go").await;
    node.finished(&id).await;
    assert_eq!(node.logged(), "after\n");
    assert_eq!(fs::read_to_string(old).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn commands_with_streams_and_codes() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node
        .run_with(&sandbox, "sleep 1000", |config| {
            config.env = vec![("GREETING".into(), "hi".into())];
            config.working_dir = Some("/new/dir".into());
        })
        .await;
    let config = ExecConfig {
        command: ["sh", "-c", "cat; echo err >&2; pwd; echo $GREETING; exit 5"].map(String::from).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
        survives: false,
    };
    let mut process = node.runtime.exec(&id, config).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    process.stdout.unwrap().read_to_string(&mut out).await.unwrap();
    process.stderr.unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((&*out, &*err), ("typed\n/new/dir\nhi\n", "err\n"));
    assert_eq!(process.exit.await.unwrap(), 5);

    let missing = node.runtime.exec_sync(&id, &["nope".into()], LONG).await.unwrap_err();
    assert!(matches!(missing, Error::Start { exit_code: 127, .. }));
    assert_eq!(
        missing.to_string(),
        r#"OCI runtime exec failed: exec failed: unable to start container process: exec: "nope": executable file not found in $PATH"#
    );
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let command = ["sh", "-c", "echo started; sleep 1001"].map(String::from);
    let output = node.runtime.exec_sync(&id, &command, Duration::from_secs(3)).await.unwrap();
    assert!(output.timed_out);
    assert_eq!(output.stdout, b"started\n");
    while node.exec(&id, "ps | grep -c 'sleep 100[1]' || true").await != "0" {
        tokio::task::yield_now().await;
    }
    let bounded =
        node.runtime.exec_sync(&id, &["sh".into(), "-c".into(), "yes | head -c 200000".into()], LONG).await;
    assert_eq!(bounded.unwrap().stdout.len(), 64 << 10);
}

#[tokio::test]
async fn a_command_with_a_terminal() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let config = ExecConfig {
        // The size is passed on by a task: it is asked for until it is there.
        command: [
            "sh",
            "-c",
            "tty; until stty size 2>/dev/null | grep -q '33 101'; do sleep 0.01; done; echo sized; read x; echo $TERM; exit 9",
        ]
        .map(String::from)
        .to_vec(),
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
        survives: false,
    };
    let mut process = node.runtime.exec(&id, config).await.unwrap();
    let mut out = process.stdout.take().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    assert!(read_until(&mut out, "/dev/pts/0\r\n").await.contains("/dev/pts/0"));
    process.resize.as_ref().unwrap().send((101, 33)).await.unwrap();
    let sized = read_until(&mut out, "sized\r\n").await;
    assert!(sized.contains("sized"), "{sized:?}");
    stdin.write_all(b"\n").await.unwrap();
    let rest = read_until(&mut out, "xterm").await;
    assert!(rest.contains("xterm"), "{rest:?}");
    assert_eq!(tokio::time::timeout(LONG, process.exit).await.unwrap().unwrap(), 9);
}

#[tokio::test]
async fn attaching_to_a_container_that_reads() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node
        .run_with(&sandbox, "while read line; do echo got $line; done; echo over", |config| {
            config.stdin = true;
            config.stdin_once = true;
        })
        .await;
    let mut process = node.runtime.attach(&id, true).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut out = process.stdout.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    assert_eq!(read_until(&mut out, "one\n").await, "got one\n");
    drop(stdin);
    assert_eq!(read_until(&mut out, "over\n").await, "over\n");
    assert_eq!(process.exit.await.unwrap(), 0);
    node.finished(&id).await;
    assert_eq!(node.logged(), "got one\nover\n");
}

#[tokio::test]
async fn who_attaches_first_to_a_container_of_one_user_misses_nothing() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    for tty in [false, true] {
        let id = node
            .run_with(&sandbox, "echo early; read line; echo got $line", |config| {
                config.stdin = true;
                config.stdin_once = true;
                config.tty = tty;
            })
            .await;
        while !node.logged().contains("early") {
            tokio::task::yield_now().await;
        }
        let mut process = node.runtime.attach(&id, true).await.unwrap();
        let mut out = process.stdout.take().unwrap();
        assert!(read_until(&mut out, "early").await.starts_with("early"));
        process.stdin.take().unwrap().write_all(b"it\n").await.unwrap();
        assert!(read_until(&mut out, "got it").await.contains("got it"));
        assert_eq!(tokio::time::timeout(LONG, process.exit).await.unwrap().unwrap(), 0);
        node.finished(&id).await;
        node.runtime.remove_container(&id).await.unwrap();
        fs::remove_file(node.log_path()).unwrap();
    }
}

#[tokio::test]
async fn what_was_printed_is_kept_though_the_output_was_closed() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    // It has closed its output, and has not ended.
    let script = "echo early; exec 1>&- 2>&-; read line; exit 4";
    let id = node
        .run_with(&sandbox, script, |config| {
            config.stdin = true;
            config.stdin_once = true;
        })
        .await;
    let closed = "ls -l /proc/1/fd | grep -c pipe: || true";
    while node.exec(&id, closed).await != "1" {
        tokio::task::yield_now().await;
    }
    let mut process = node.runtime.attach(&id, true).await.unwrap();
    let mut text = String::new();
    let mut out = process.stdout.take().unwrap();
    tokio::time::timeout(LONG, out.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "early\n");
    process.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(tokio::time::timeout(LONG, process.exit).await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_a_container_that_has_ended() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node
        .run_with(&sandbox, "read line; yes | head -c 500000; echo the end", |config| {
            config.stdin = true;
            config.stdin_once = true;
        })
        .await;
    let mut process = node.runtime.attach(&id, true).await.unwrap();
    process.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
    // Far more than a pipe takes, and nothing is read before it has ended.
    node.finished(&id).await;
    let mut text = String::new();
    let mut out = process.stdout.take().unwrap();
    tokio::time::timeout(LONG, out.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text.len(), 500_008);
    assert!(text.ends_with("the end\n"));
}

#[tokio::test]
async fn a_shim_survives_whatever_is_said_to_it() {
    use rand::{RngExt, SeedableRng};
    use std::io::{Read, Write};
    let seed = std::env::var("SKIFF_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SKIFF_SEED={seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 1000").await;
    let run_dirs = fs::read_dir(node.dir.path().join("run")).unwrap();
    let mut sockets = run_dirs.flatten().map(|entry| entry.path().join("s"));
    let socket = sockets.find(|path| path.exists()).expect("the shim listens");
    let calls = [
        r#"{"version":1,"request":"Watch"}"#.to_owned(),
        r#"{"version":9,"request":"Stop"}"#.to_owned(),
        r#"{"version":1,"request":{"Attach":{"id":"none","stdin":true}}}"#.to_owned(),
        r#"{"version":1,"request":{"Signal":{"id":"none","signal":9}}}"#.to_owned(),
        r#"{"version":1,"request":{"Forget":{"id":"none"}}}"#.to_owned(),
        format!(r#"{{"version":1,"request":{{"Signal":{{"id":"{}","signal":4096}}}}}}"#, id.0),
        format!(r#"{{"version":1,"request":{{"Forget":{{"id":"{}"}}}}}}"#, id.0),
        format!(r#"{{"version":1,"request":{{"Start":{{"id":"{}"}}}}}}"#, id.0),
    ];
    for round in 0..300 {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let call = calls[round % calls.len()].as_bytes();
        let mut bytes = [&u32::try_from(call.len()).unwrap().to_le_bytes()[..], call].concat();
        let is_whole = round < calls.len();
        if !is_whole {
            match random.random_range(0..3) {
                0 => bytes.truncate(random.random_range(0..bytes.len())),
                1 => bytes = (0..random.random_range(1..200)).map(|_| random.random()).collect(),
                _ => {
                    let at = random.random_range(0..4);
                    bytes[at] = random.random();
                }
            }
        }
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        if is_whole {
            // It answers, if only by a refusal.
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
        }
    }
    assert_eq!(node.exec(&id, "echo here").await, "here");
    let left = node.runtime.list_containers().await.unwrap();
    assert_eq!((left.len(), left[0].state), (1, ContainerState::Running));
}

#[tokio::test]
async fn attaching_to_a_terminal() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let script = "test -t 0 && test -c /dev/console && echo ready; read line; stty size; exit 4";
    let id = node
        .run_with(&sandbox, script, |config| {
            config.stdin = true;
            config.tty = true;
        })
        .await;
    let mut process = node.runtime.attach(&id, true).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    assert_eq!(tokio::time::timeout(LONG, process.exit).await.unwrap().unwrap(), 4);
    node.finished(&id).await;
    assert!(node.logged().contains("ready\n"), "{:?}", node.logged());
}

#[tokio::test]
async fn a_reader_who_does_not_read_holds_nobody_up() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let id = node.run(&sandbox, "sleep 0.2; yes | head -c 8000000; echo the end").await;
    let process = node.runtime.attach(&id, false).await.unwrap();
    node.finished(&id).await;
    assert!(node.logged().ends_with("the end\n"));
    drop(process);
}

#[tokio::test]
async fn ports_are_reached_in_the_sandbox() {
    let node = Node::new().await;
    let sandbox = node.sandbox().await;
    let up = ["CAP_NET_ADMIN".to_owned()].to_vec();
    let script = "ifconfig lo up && echo -n pong | nc -l -p 8123";
    let id = node.run_with(&sandbox, script, |config| config.security.capabilities_add = up).await;
    let connect = async {
        loop {
            match node.runtime.port_forward(&sandbox.id, 8123).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut stream = tokio::time::timeout(LONG, connect).await.unwrap();
    let mut text = String::new();
    let _ = tokio::time::timeout(LONG, async {
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        text = String::from_utf8_lossy(&buffer).into_owned();
    })
    .await;
    assert_eq!(text, "pong");
    node.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert!(node.runtime.port_forward(&sandbox.id, 8123).await.is_err());
}
