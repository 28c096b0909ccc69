//! Real programs, unmodified.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;

use crate::bed::{Bed, Origin, Said, noise};
use crate::relay::Rules;

const BIG: usize = 40 << 20;

/// A bed, an origin with a large and a small file, and the large one's bytes.
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
fn with_files() -> (Bed, Origin, Vec<u8>) {
    let bed = Bed::loopback();
    let (served, big) = (bed.path().join("served"), noise(BIG));
    fs::create_dir(&served).unwrap();
    fs::write(served.join("big"), &big).unwrap();
    fs::write(served.join("small"), "small\n").unwrap();
    let origin = Origin::new(&served);
    (bed, origin, big)
}

fn is_fine(said: &Said) {
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
}

#[test]
fn curl_downloads_uploads_and_keeps_connections_alive() {
    let (bed, origin, big) = with_files();
    let url = origin.url("127.0.0.1", "big");
    is_fine(&bed.run("curl", &["-sS", "-o", "got", &url]));
    assert!(fs::read(bed.path().join("got")).unwrap() == big);
    is_fine(&bed.run("curl", &["-sS", "-T", "got", &origin.url("127.0.0.1", "put")]));
    assert!(fs::read(bed.path().join("served/put")).unwrap() == big);
    let small = origin.url("127.0.0.1", "small");
    let said = bed.run("curl", &["-sS", "--tcp-fastopen", &small, &small, &small]);
    is_fine(&said);
    assert_eq!(said.out, "small\n".repeat(3));
    let said = bed.run("curl", &["-sS", "--parallel", &small, &small, &small]);
    is_fine(&said);
    let said = bed.run("curl", &["-sS", "-w", "%{remote_ip} %{num_connects}", &small]);
    assert_eq!(said.out, "small\n127.0.0.1 1");
}

#[test]
fn curl_tells_its_failures_apart() {
    let bed = Bed::loopback();
    let code = |url: &str| bed.run("curl", &["-sS", "-m", "2", url]).code;
    assert_eq!(code("http://192.0.2.1:111/"), Some(7), "refused at once");
    assert_eq!(code("http://198.51.100.1:113/"), Some(7), "no route, after a while");
    assert_eq!(code("http://203.0.113.1:80/"), Some(28), "never answered");
    assert_eq!(code("http://nobody.at.example.com.stp/"), Some(6), "no such name");
    let said = bed.run("wget", &["-t1", "-O-", "http://198.51.100.1:113/"]);
    assert!(said.err.contains("No route to host"), "{}", said.err);
}

#[test]
fn wget_downloads_and_its_own_timeout_jumps_out_of_connect() {
    let (bed, origin, big) = with_files();
    let url = origin.url("mirror.test", "big");
    is_fine(&bed.run("wget", &["-q", "-T", "20", "-O", "got", &url]));
    assert!(fs::read(bed.path().join("got")).unwrap() == big);
    let said = bed.run("wget", &["-T", "1", "-t", "2", "-O-", "http://203.0.113.1:80/"]);
    assert_eq!(said.err.matches("timed out").count(), 2, "{}", said.err);
}

#[test]
fn routed_names_and_ours_lead_through_the_broker() {
    let (bed, origin, _) = with_files();
    for host in ["mirror.test", "MIRROR.test", "www.web.at.example.com.stp"] {
        let url = origin.url(host, "small");
        let said = bed.run("curl", &["-sS", "-w", "%{remote_ip}", &url]);
        is_fine(&said);
        assert!(said.out.starts_with("small\n198.18.0."), "{}", said.out);
    }
    let said = bed.python(
        "import socket as s\n\
         print(s.gethostbyname('mirror.test'), s.gethostbyname_ex('mirror.test')[2])\n\
         print(s.getaddrinfo('mirror.test', 8080, 0, s.SOCK_STREAM, 0, s.AI_CANONNAME)[0][3:])\n\
         try: s.getaddrinfo('nobody.at.example.com.stp', 80)\n\
         except s.gaierror as e: print(e.errno == s.EAI_NONAME)\n\
         try: s.gethostbyname('nobody.at.example.com.stp')\n\
         except OSError as e: print(e.args[0])\n",
    );
    is_fine(&said);
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines[0], "198.18.0.1 ['198.18.0.1']");
    assert_eq!(lines[1], "('mirror.test', ('198.18.0.1', 8080))");
    assert_eq!(lines[2], "True", "{}", said.out);
}

#[test]
fn a_name_is_no_address_and_port_0_is_any() {
    let bed = Bed::loopback();
    // ssh asks whether its argument is an address; ncat fills the port in later.
    let said = bed.python(
        "import socket as s\n\
         try: s.getaddrinfo('mirror.test', 80, 0, s.SOCK_STREAM, 0, s.AI_NUMERICHOST)\n\
         except s.gaierror as e: print(e.errno == s.EAI_NONAME)\n\
         print(s.getaddrinfo('mirror.test', 0, s.AF_INET, s.SOCK_STREAM)[0][4])",
    );
    is_fine(&said);
    assert_eq!(said.out, "True\n('198.18.0.1', 0)\n");
}

#[test]
fn an_unrouted_port_of_a_routed_name_is_reached_directly() {
    let Some(direct) = (900..1_000).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
    else {
        return;
    };
    let mut rules = Rules::loopback();
    rules.hosts = vec![("localhost".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let bed = Bed::new(rules);
    let port = direct.local_addr().unwrap().port();
    let said = bed.python(&format!(
        "import socket\n\
         s = socket.socket(); s.connect((socket.gethostbyname('localhost'), {port}))\n\
         print(s.getpeername()[0])"
    ));
    is_fine(&said);
    assert_eq!(said.out, "127.0.0.1\n");
}

#[test]
fn a_virtual_address_is_no_place_for_datagrams_and_no_question_for_dns() {
    let mut rules = Rules::loopback();
    rules.hosts = vec![("localhost".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let bed = Bed::new(rules);
    let said = bed.python(
        "import socket as s\n\
         a = s.gethostbyname('localhost'); u = s.socket(s.AF_INET, s.SOCK_DGRAM)\n\
         print(a, s.getnameinfo((a, 80), 0))\n\
         for send in lambda: u.sendto(b'x', (a, 9)), lambda: u.sendmsg([b'x'], [], 0, (a, 9)):\n\
         \x20 try: print(send())\n\
         \x20 except OSError as e: print(e.errno)\n\
         u.connect((a, 9)); print(u.getpeername()[0])\n",
    );
    is_fine(&said);
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines, ["198.18.0.1 ('localhost', 'http')", "101", "101", "127.0.0.1"]);
}

#[test]
fn python_urllib_and_asyncio_work() {
    let (bed, origin, big) = with_files();
    let url = origin.url("127.0.0.1", "big");
    let said = bed.python(&format!(
        "import urllib.request as r, hashlib as h\n\
         for kw in {{}}, {{'timeout': 9}}:\n\
         \x20 print(h.sha256(r.urlopen('{url}', **kw).read()).hexdigest())\n\
         print(h.sha256(open('served/big', 'rb').read()).hexdigest())"
    ));
    is_fine(&said);
    let lines: Vec<_> = said.out.lines().collect();
    assert!(lines.len() == 3 && lines[0] == lines[2] && lines[1] == lines[2], "{lines:?}");
    let said = bed.python(&format!(
        "import asyncio\n\
         async def main():\n\
         \x20 r, w = await asyncio.open_connection('127.0.0.1', {port})\n\
         \x20 w.write(b'GET /big HTTP/1.0\\r\\n\\r\\n'); await w.drain()\n\
         \x20 d = await r.read(); print(len(d.split(b'\\r\\n\\r\\n', 1)[1]))\n\
         \x20 print(w.get_extra_info('peername')); w.close(); await w.wait_closed()\n\
         asyncio.run(main())",
        port = origin.port
    ));
    is_fine(&said);
    assert_eq!(said.out, format!("{}\n('127.0.0.1', {})\n", big.len(), origin.port));
}

#[test]
fn netcat_ends_when_both_ends_are_done() {
    let bed = Bed::loopback();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = String::new();
        stream.read_to_string(&mut asked).unwrap();
        stream.write_all(format!("heard {asked}").as_bytes()).unwrap();
    });
    let script = format!("echo hello | nc -N 127.0.0.1 {port}");
    let said = bed.run("/bin/sh", &["-c", &script]);
    is_fine(&said);
    assert_eq!(said.out, "heard hello\n");
    server.join().unwrap();
}

#[test]
fn a_shell_hands_its_connection_to_other_programs() {
    let bed = Bed::loopback();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 12];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(&asked).unwrap();
    });
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'from ' >&3; /usr/bin/printf 'forked\\n' >&3; \
         /usr/bin/python3 -c \"import socket; s = socket.socket(fileno=3); \
         print(s.family.name, s.getpeername()[1] == {port})\"; cat <&3"
    );
    let said = bed.run("/bin/bash", &["-c", &script]);
    is_fine(&said);
    assert_eq!(said.out, "AF_INET True\nfrom forked\n");
    server.join().unwrap();
}
