//! The one file to copy: it is static and small, and whatever it needs, it brings along. It runs here in directories that
//! hold nothing but it, its configuration and the address of a name server.
//!
//! `.ci/run` builds it (`.ci/static`) and names it in TEST_STATIC_BINARY. A release build takes longer than many tests
//! together: where none is named, these tests say aloud that they were skipped, and in CI they build it themselves. Changing
//! the root directory takes root, and so does being a name server; where that is not permitted, it is said as loudly.

use std::{
    env,
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    child::{Running, copy_program},
    skip,
};

/// The most that the binary may have, in bytes.
const MOST: u64 = 30 << 20;

/// The binary, which is built at most once. `None` where this is not to be tested.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        if let Some(path) = env::var_os("TEST_STATIC_BINARY") {
            return Some(root.join(path));
        }
        if !skip::is_ci() {
            return None;
        }
        let built = Command::new(root.join(".ci/static")).stderr(Stdio::inherit()).output().unwrap();
        assert!(built.status.success(), ".ci/static: {}", built.status);
        Some(root.join(String::from_utf8(built.stdout).unwrap().trim_end()))
    };
    let binary = BINARY.get_or_init(find).as_deref();
    if binary.is_none() {
        skip::skip("TEST_STATIC_BINARY names no binary; `.ci/static` builds one");
    }
    binary
}

/// A number of an ELF file, of so many bytes, least significant first.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The kinds of the segments of a 64-bit ELF file.
fn segments(elf: &[u8]) -> Vec<usize> {
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let (start, size, count) = (number(elf, 0x20, 8), number(elf, 0x36, 2), number(elf, 0x38, 2));
    (0..count).map(|i| number(elf, start + i * size, 4)).collect()
}

#[test]
fn is_static_and_small() {
    let Some(binary) = binary() else { return };
    let bytes = fs::read(binary).unwrap();
    assert!((bytes.len() as u64) < MOST, "{} bytes", bytes.len());
    // Whatever has an interpreter is loaded by the system's loader, with the system's libraries.
    const LOAD: usize = 1;
    const INTERPRETER: usize = 3;
    let segments = segments(&bytes);
    assert!(segments.contains(&LOAD) && !segments.contains(&INTERPRETER), "{segments:?}");
    let version = Command::new(binary).args(["version", "-o", "json"]).output().unwrap();
    let version: Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(version["static"], true, "{version}");
    // A commit of this history, if there is one: later ones need not have changed the program.
    let is_there =
        |arguments: &[&str]| Command::new("git").args(arguments).output().is_ok_and(|git| git.status.success());
    if is_there(&["rev-parse", "HEAD"]) {
        let commit = version["commit"].as_str().unwrap().split(',').next().unwrap();
        assert!(is_there(&["merge-base", "--is-ancestor", commit, "HEAD"]), "{version}");
    }
}

/// A root directory with the binary in it.
struct Jail(TempDir);

impl Jail {
    fn new(binary: &Path) -> Self {
        let dir = TempDir::new().unwrap();
        copy_program(binary, &dir.path().join("dapbox"));
        Self(dir)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_as("0:0", arguments)
    }

    /// The same as a user and a group.
    fn command_as(&self, whom: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={whom}")).arg(self.0.path()).arg("/dapbox").args(arguments).env_clear();
        // `chroot` itself is found with it.
        command.env("PATH", env::var_os("PATH").unwrap());
        command
    }

    #[track_caller]
    fn run(&self, mut command: Command) -> String {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8(stdout).unwrap();
        assert!(status.success(), "{command:?}: {status}: {said}{}", String::from_utf8_lossy(&stderr));
        said
    }
}

/// The binary in a root directory of its own. `None` where that cannot be.
fn jail() -> Option<Jail> {
    let binary = binary()?;
    let changed = Command::new("chroot").args(["/", "true"]).stderr(Stdio::null()).status();
    match changed.is_ok_and(|status| status.success()) {
        true => Some(Jail::new(binary)),
        false => {
            skip::skip("cannot change the root directory; run it as root");
            None
        }
    }
}

#[test]
fn runs_demo_in_empty_root_directory() {
    let Some(jail) = jail() else { return };
    assert!(jail.run(jail.command(&["--version"])).contains("static"));
    assert!(jail.run(jail.command(&["completions", "bash"])).contains("_dapbox"));
    assert!(jail.run(jail.command(&["man"])).contains(".TH dapbox"));
    // There is no /tmp.
    fs::create_dir(jail.0.path().join("scratch")).unwrap();
    let mut demo = jail.command(&["demo", "--rows", "200"]);
    demo.env("TMPDIR", "/scratch");
    assert!(jail.run(demo).contains("200"));
}

/// A name server that knows the names of this test, and counts the questions. It answers for as long as the test runs.
struct NameServer {
    address: IpAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        // The whole of 127.0.0.0/8 is this machine, and hardly anybody listens beyond its first addresses.
        let (address, socket) = (1..=250)
            .map(|host| Ipv4Addr::new(127, 53, 18, host))
            .find_map(|address| Some((address, UdpSocket::bind((address, 53)).ok()?)))
            .expect("whoever may change the root directory may listen on port 53");
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = socket.send_to(&answer(&query[..length]), client);
            }
        });
        Self { address: address.into(), asked }
    }
}

/// The answer to a query (RFC 1035 section 4): 127.0.0.1 for names below `test`, and nothing for other types.
fn answer(query: &[u8]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let (name, kind) = (&query[12..name_end], number(&[query[name_end + 1], query[name_end]], 0, 2));
    let is_known = name.to_ascii_lowercase().ends_with(b"\x04test\x00");
    let has_address = is_known && kind == 1;
    // An answer, recursion available; no such name (3) if we do not know it.
    let flags = [0x81, if is_known { 0x80 } else { 0x83 }];
    let mut answer = [&query[..2], &flags, &[0, 1, 0, u8::from(has_address), 0, 0, 0, 0]].concat();
    answer.extend_from_slice(&query[12..name_end + 4]);
    if has_address {
        // The name of the question, type A, class IN, one second, four octets.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// A server in the jail, which ends with this.
struct Served {
    _process: Running,
    port: String,
}

impl Served {
    fn start(jail: &Jail, name: &str) -> Self {
        let config = format!(
            "data_dir = \"/{name}\"\nlisten = \"127.0.0.1:0\"\n[tls]\nmode = \"files\"\ncertificate_file = \"/cert.pem\"\n\
             key_file = \"/key.pem\"\n[peer]\nca_file = \"/ca.pem\"\n[monitor]\nlisten = \"\"\n[leader]\n\
             max_job_delay = \"0s\"\n[disk]\nreserve_bytes = 0\nballast_bytes = 0\n"
        );
        jail.write(&format!("{name}.toml"), config);
        Self::run(jail.command(&["serve", "--config", &format!("/{name}.toml")]))
    }

    fn run(mut command: Command) -> Self {
        let mut process = Running::spawn(command.stderr(Stdio::piped()));
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains(r#""message":"serving""#) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "{command:?}: {all}");
            all.push_str(&line);
        }
        // Whoever writes to a pipe that nobody reads stops at some point.
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
        let line: Value = serde_json::from_str(&line).unwrap();
        let port = line["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        Self { _process: process, port }
    }
}

/// As the image has it: the same user, the same directories and the same commands.
#[test]
fn runs_commands_of_container_image() {
    let Some(jail) = jail() else { return };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/Dockerfile")).unwrap();
    let line = |name: &str| text.lines().map(str::trim).rfind(|line| line.starts_with(name)).unwrap();
    let words = |line: &str| serde_json::from_str::<Vec<String>>(&line[line.find('[').unwrap()..]).unwrap();
    let user = line("USER").split_once(' ').unwrap().1;
    let id = user.split(':').next().unwrap().parse().unwrap();
    let data_dir = jail.0.path().join("var/lib/dapbox");
    fs::create_dir_all(&data_dir).unwrap();
    chown(&data_dir, Some(id), Some(id)).unwrap();
    fs::set_permissions(&data_dir, Permissions::from_mode(0o700)).unwrap();
    // Others of this test's machine may have the ports, and little room.
    let serve: Vec<_> = words(line("CMD [\"serve")).into_iter().map(|word| word.replace(":8080", ":0")).collect();
    let mut serve = jail.command_as(user, &serve.iter().map(String::as_str).collect::<Vec<_>>());
    serve
        .env("DAPBOX_MONITOR__LISTEN", "")
        .env("DAPBOX_DISK__RESERVE_BYTES", "0")
        .env("DAPBOX_DISK__BALLAST_BYTES", "0");
    let check = words(line("CMD [\"/dapbox"));
    let arguments: Vec<_> = check[1..].iter().map(String::as_str).collect();
    let is_healthy = || jail.command_as(user, &arguments).output().unwrap().status.code() == Some(0);
    assert!(!is_healthy(), "nobody serves");
    let served = Served::run(serve);
    assert!(is_healthy());
    drop(served);
    assert!(!is_healthy(), "nobody serves any more");
}

/// A leader finds its helper, and a client and a collector their leader, by names that a name server knows, and all of
/// them speak TLS: with no file of the system but the one that says where the name server is.
#[test]
fn resolves_names_and_speaks_https_in_empty_root_directory() {
    let Some(jail) = jail() else { return };
    let names = NameServer::start();
    jail.write("etc/resolv.conf", format!("nameserver {}\n", names.address));
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names_of_ours = vec!["leader.test".to_owned(), "helper.test".to_owned()];
    let certificate = CertificateParams::new(names_of_ours).unwrap().signed_by(&key, &authority).unwrap();
    jail.write("ca.pem", authority.pem());
    jail.write("cert.pem", certificate.pem());
    jail.write("key.pem", key.serialize_pem());
    let (leader, helper) = (Served::start(&jail, "leader"), Served::start(&jail, "helper"));

    let run = |line: &str| {
        let mut command = jail.command(&line.split(' ').collect::<Vec<_>>());
        command.env("DAPBOX_CA_FILE", "/ca.pem");
        jail.run(command)
    };
    let (leader, helper) = (&leader.port, &helper.port);
    run(&format!(
        "task new --leader https://leader.test:{leader} --helper https://helper.test:{helper} --vdaf sum --bits 8 \
         --min-batch-size 2 --out /task"
    ));
    run("task add /task/leader.toml --role leader --data-dir /leader");
    run("task add /task/helper.toml --role helper --data-dir /helper");
    assert_eq!(names.asked.load(Ordering::SeqCst), 0, "nobody was looked for yet");
    // The authorities that everybody believes are in the binary; ours is none of them, and what helps is said.
    let stranger = jail.command(&["upload", "--task", "/task/client.toml", "1"]).output().unwrap();
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(!stranger.status.success() && said.contains("--ca-file"), "{said}");
    run("upload --task /task/client.toml 100");
    run("upload --task /task/client.toml 23");
    let collected = run("collect --task /task/collector.toml --include-current --yes -o json");
    let collected: Value = serde_json::from_str(&collected).unwrap();
    assert_eq!((&collected["report_count"], &collected["result"]), (&2.into(), &123.into()), "{collected}");
    assert!(names.asked.load(Ordering::SeqCst) >= 3, "client, leader and collector asked for a name");
}
