//! The static binary: it is small and self-contained. It runs here in directories that hold only the binary, its
//! configuration
//! and the address of a name server.
//!
//! `.ci/run` builds it (`.ci/static`) and names it in TEST_STATIC_BINARY. Without the variable these tests are skipped,
//! because
//! a release build is slow; in CI they build it. They also need root, to change the root directory and to listen as a
//! name
//! server, and are skipped otherwise.

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

/// The maximum size of the binary, in bytes.
const MAX_BYTES: u64 = 34 << 20;

/// The binary, built at most once. `None` where these tests are skipped.
pub fn binary() -> Option<&'static Path> {
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

/// A little-endian number of an ELF file with this many bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The types of the segments of a 64-bit ELF file.
fn segments(elf: &[u8]) -> Vec<usize> {
    assert_eq!(elf[..6], *b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let (start, size, count) = (number(elf, 0x20, 8), number(elf, 0x36, 2), number(elf, 0x38, 2));
    (0..count).map(|i| number(elf, start + i * size, 4)).collect()
}

#[test]
fn is_static_and_small() {
    let Some(binary) = binary() else { return };
    let bytes = fs::read(binary).unwrap();
    assert!((bytes.len() as u64) < MAX_BYTES, "{} bytes", bytes.len());
    // A binary with an interpreter needs the loader and the libraries of the system.
    const LOAD: usize = 1;
    const INTERPRETER: usize = 3;
    let segments = segments(&bytes);
    assert!(segments.contains(&LOAD) && !segments.contains(&INTERPRETER), "{segments:?}");
    let version = Command::new(binary).args(["version", "-o", "json"]).output().unwrap();
    let version: Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(version["static"], true, "{version}");
    // A commit of this history, if there is one. Later commits need not have changed the program.
    let is_there =
        |arguments: &[&str]| Command::new("git").args(arguments).output().is_ok_and(|git| git.status.success());
    if is_there(&["rev-parse", "HEAD"]) {
        let commit = version["commit"].as_str().unwrap().split(',').next().unwrap();
        assert!(is_there(&["merge-base", "--is-ancestor", commit, "HEAD"]), "{version}");
    }
}

/// A path in the binary would make it depend on the directory of the build. `.ci/reproducible` compares two builds.
#[test]
fn contains_no_path_of_build() {
    let Some(binary) = binary() else { return };
    let bytes = fs::read(binary).unwrap();
    let home = env::var("CARGO_HOME").or(env::var("HOME").map(|home| format!("{home}/.cargo")));
    for path in [env!("CARGO_MANIFEST_DIR").to_owned(), home.unwrap()] {
        // This is fast without optimisation, too: few bytes are slashes.
        let at = (0..bytes.len()).filter(|at| bytes[*at] == b'/').find(|at| bytes[*at..].starts_with(path.as_bytes()));
        assert_eq!(at, None, "{path} is in {}", binary.display());
    }
}

/// A root directory with the binary.
struct Chroot(TempDir);

impl Chroot {
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

/// A root directory with the binary. `None` where this test is skipped.
fn chroot() -> Option<Chroot> {
    let binary = binary()?;
    let changed = Command::new("chroot").args(["/", "true"]).stderr(Stdio::null()).status();
    match changed.is_ok_and(|status| status.success()) {
        true => Some(Chroot::new(binary)),
        false => {
            skip::skip("cannot change the root directory; run it as root");
            None
        }
    }
}

#[test]
fn runs_demo_in_empty_root_directory() {
    let Some(chroot) = chroot() else { return };
    assert!(chroot.run(chroot.command(&["--version"])).contains("static"));
    assert!(chroot.run(chroot.command(&["completions", "bash"])).contains("_dapbox"));
    assert!(chroot.run(chroot.command(&["man"])).contains(".TH dapbox"));
    // There is no /tmp.
    fs::create_dir(chroot.0.path().join("scratch")).unwrap();
    let mut demo = chroot.command(&["demo", "--rows", "200"]);
    demo.env("TMPDIR", "/scratch");
    assert!(chroot.run(demo).contains("200"));
}

/// A name server for the names of this test that counts queries. It answers as long as the test runs.
struct NameServer {
    address: IpAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        // All of 127.0.0.0/8 is this machine, and addresses beyond the first few are rarely used.
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

/// The answer to a query (RFC 1035 section 4): 127.0.0.1 for names below `test`, and no record of other types.
fn answer(query: &[u8]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let (name, kind) = (&query[12..name_end], number(&[query[name_end + 1], query[name_end]], 0, 2));
    let is_known = name.to_ascii_lowercase().ends_with(b"\x04test\x00");
    let has_address = is_known && kind == 1;
    // An answer, recursion available; NXDOMAIN (3) for other names.
    let flags = [0x81, if is_known { 0x80 } else { 0x83 }];
    let mut answer = [&query[..2], &flags, &[0, 1, 0, u8::from(has_address), 0, 0, 0, 0]].concat();
    answer.extend_from_slice(&query[12..name_end + 4]);
    if has_address {
        // The name of the question, type A, class IN, one second, four octets.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// A server in the chroot. Dropping this stops it.
struct Served {
    _process: Running,
    port: String,
}

impl Served {
    fn start(chroot: &Chroot, name: &str) -> Self {
        let config = format!(
            "data_dir = \"/{name}\"\nlisten = \"127.0.0.1:0\"\n[tls]\nmode = \"files\"\ncertificate_file = \"/cert.pem\"\n\
             key_file = \"/key.pem\"\n[peer]\nca_file = \"/ca.pem\"\n[monitor]\nlisten = \"\"\n[leader]\n\
             max_job_delay = \"0s\"\n[disk]\nreserve_bytes = 0\nballast_bytes = 0\n"
        );
        chroot.write(&format!("{name}.toml"), config);
        Self::run(chroot.command(&["serve", "--config", &format!("/{name}.toml")]))
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
        // A full pipe would block the server.
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(drop));
        let line: Value = serde_json::from_str(&line).unwrap();
        let port = line["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        Self { _process: process, port }
    }
}

/// As in the container image: the same user, directories and commands.
#[test]
fn runs_commands_of_container_image() {
    let Some(chroot) = chroot() else { return };
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/Dockerfile")).unwrap();
    let line = |name: &str| text.lines().map(str::trim).rfind(|line| line.starts_with(name)).unwrap();
    let words = |line: &str| serde_json::from_str::<Vec<String>>(&line[line.find('[').unwrap()..]).unwrap();
    let user = line("USER").split_once(' ').unwrap().1;
    let id = user.split(':').next().unwrap().parse().unwrap();
    let data_dir = chroot.0.path().join("var/lib/dapbox");
    fs::create_dir_all(&data_dir).unwrap();
    chown(&data_dir, Some(id), Some(id)).unwrap();
    fs::set_permissions(&data_dir, Permissions::from_mode(0o700)).unwrap();
    // The ports may be taken and the disk may be small.
    let serve: Vec<_> = words(line("CMD [\"serve")).into_iter().map(|word| word.replace(":8080", ":0")).collect();
    let mut serve = chroot.command_as(user, &serve.iter().map(String::as_str).collect::<Vec<_>>());
    serve
        .env("DAPBOX_MONITOR__LISTEN", "")
        .env("DAPBOX_DISK__RESERVE_BYTES", "0")
        .env("DAPBOX_DISK__BALLAST_BYTES", "0");
    let check = words(line("CMD [\"/dapbox"));
    let arguments: Vec<_> = check[1..].iter().map(String::as_str).collect();
    let is_healthy = || chroot.command_as(user, &arguments).output().unwrap().status.code() == Some(0);
    assert!(!is_healthy(), "no server runs");
    let served = Served::run(serve);
    assert!(is_healthy());
    drop(served);
    assert!(!is_healthy(), "the server has stopped");
}

/// Leader, client and collector resolve host names with a name server and speak TLS. The only file of the system is the
/// one with the name server's address.
#[test]
fn resolves_names_and_speaks_https_in_empty_root_directory() {
    let Some(chroot) = chroot() else { return };
    let names = NameServer::start();
    chroot.write("etc/resolv.conf", format!("nameserver {}\n", names.address));
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names_of_ours = vec!["leader.test".to_owned(), "helper.test".to_owned()];
    let certificate = CertificateParams::new(names_of_ours).unwrap().signed_by(&key, &authority).unwrap();
    chroot.write("ca.pem", authority.pem());
    chroot.write("cert.pem", certificate.pem());
    chroot.write("key.pem", key.serialize_pem());
    let (leader, helper) = (Served::start(&chroot, "leader"), Served::start(&chroot, "helper"));

    let run = |line: &str| {
        let mut command = chroot.command(&line.split(' ').collect::<Vec<_>>());
        command.env("DAPBOX_CA_FILE", "/ca.pem");
        chroot.run(command)
    };
    let (leader, helper) = (&leader.port, &helper.port);
    run(&format!(
        "task new --leader https://leader.test:{leader} --helper https://helper.test:{helper} --vdaf sum --bits 8 \
         --min-batch-size 2 --out /task"
    ));
    run("task add /task/leader.toml --role leader --data-dir /leader");
    run("task add /task/helper.toml --role helper --data-dir /helper");
    assert_eq!(names.asked.load(Ordering::SeqCst), 0, "no name was looked up yet");
    // The public roots are in the binary; ours is none of them. The error has a hint.
    let stranger = chroot.command(&["upload", "--task", "/task/client.toml", "1"]).output().unwrap();
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(!stranger.status.success() && said.contains("--ca-file"), "{said}");
    run("upload --task /task/client.toml 100");
    run("upload --task /task/client.toml 23");
    let collected = run("collect --task /task/collector.toml --include-current --yes -o json");
    let collected: Value = serde_json::from_str(&collected).unwrap();
    assert_eq!((&collected["report_count"], &collected["result"]), (&2.into(), &123.into()), "{collected}");
    assert!(names.asked.load(Ordering::SeqCst) >= 3, "client, leader and collector asked for a name");
}
