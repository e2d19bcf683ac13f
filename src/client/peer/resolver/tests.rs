use std::{
    net::UdpSocket,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tempfile::TempDir;

use super::*;

/// A name server on loopback that counts its queries.
struct NameServer {
    port: u16,
    asked: Arc<AtomicUsize>,
}

/// Query types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

impl NameServer {
    /// Responds with 192.0.2.7 for `both.test` and `only4.test`, and with `2001:db8::7` for `both.test`. Drops IPv6
    /// queries for `only4.test`. No other name exists.
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                counted.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&buffer[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { port, asked }
    }

    /// A resolver that uses these files and this server.
    fn names(&self, servers: Option<&str>, hosts: &str) -> (TempDir, Resolver) {
        let dir = TempDir::new().unwrap();
        if let Some(servers) = servers {
            fs::write(dir.path().join("resolv.conf"), servers).unwrap();
        }
        fs::write(dir.path().join("hosts"), hosts).unwrap();
        let sources =
            Sources { servers: dir.path().join("resolv.conf"), hosts: dir.path().join("hosts"), port: self.port };
        (dir, Resolver::of(sources))
    }
}

/// The response to a query (RFC 1035 section 4.1), if there is one.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let (data, code): (Option<Vec<u8>>, u8) = match (labels.join(".").as_str(), kind) {
        ("both.test" | "only4.test", A) => (Some(vec![192, 0, 2, 7]), 0),
        ("both.test", AAAA) => (Some("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets().to_vec()), 0),
        ("only4.test", _) => return None,
        _ => (None, 3),
    };
    // A response to one query, with recursion.
    let count = u8::from(data.is_some());
    let mut answer = [&question[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]].concat();
    answer.extend_from_slice(&question[12..at + 5]);
    if let Some(data) = data {
        // A reference to the name in the query, and a TTL of one minute.
        answer.extend_from_slice(&[0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend_from_slice(&data);
    }
    Some(answer)
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

#[tokio::test]
async fn resolves_localhost_and_rejects_invalid_names() {
    let names = Resolver::default();
    let found = names.lookup("localhost").await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    // Not a valid name: a label has at most 63 octets (RFC 1035 section 2.3.4).
    let error = names.lookup(&"x".repeat(64)).await.unwrap_err().to_string();
    assert!(error.contains("cannot resolve xxx"), "{error}");
}

/// Covers a name with an address of one family, and names that need no name server.
#[tokio::test]
async fn finds_names_of_the_hosts_file_without_dns() {
    let server = NameServer::start();
    let (_dir, names) = server.names(Some("nameserver 127.0.0.1\n"), "192.0.2.1 helper.test\n");
    assert_eq!(names.lookup("Helper.test").await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(names.lookup("192.0.2.9").await.unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    assert!(names.lookup("x.localhost").await.unwrap().iter().all(IpAddr::is_loopback));
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}

/// Covers an invalid search domain, an invalid name server address, and a timeout of zero.
#[tokio::test]
async fn uses_the_good_entries_of_resolv_conf() {
    let server = NameServer::start();
    let conf =
        format!("search {}.test\nnameserver fe80::1%eth0\nnameserver 127.0.0.1\noptions timeout:0\n", "x".repeat(64));
    let (_dir, names) = server.names(Some(&conf), "");
    assert_eq!(names.lookup("both.test").await.unwrap(), ["2001:db8::7".parse().unwrap(), V4]);
    let (_dir, names) = server.names(Some("search test\nnameserver 127.0.0.1\n"), "");
    assert_eq!(names.lookup("both").await.unwrap().len(), 2);
}

#[tokio::test]
async fn one_family_suffices_if_the_other_times_out() {
    let server = NameServer::start();
    let (_dir, names) = server.names(Some("nameserver 127.0.0.1\n"), "");
    assert_eq!(names.lookup("only4.test").await.unwrap(), [V4]);
}

#[tokio::test]
async fn errors_name_dns_and_its_servers() {
    let server = NameServer::start();
    let (_dir, names) = server.names(Some("nameserver 127.0.0.1\n"), "");
    let error = names.lookup("nowhere.test").await.unwrap_err().to_string();
    assert!(error.contains("by DNS: no such name (name server 127.0.0.1)"), "{error}");
    // A socket that is never read: the lookup times out before connecting would.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = NameServer { port: silent.local_addr().unwrap().port(), asked: Arc::default() };
    let (_dir, names) = silent.names(None, "");
    let error =
        names.for_connect_timeout(Duration::from_millis(250)).lookup("both.test").await.unwrap_err().to_string();
    assert!(error.contains("by DNS: ") && error.contains("resolv.conf"), "{error}");
}
