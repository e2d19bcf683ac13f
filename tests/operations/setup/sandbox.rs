//! A directory with the binary, running servers, certificates, and broken peers on the network.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{ChildStderr, Command, Output, Stdio},
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::child;

/// The working directory of an operator.
pub struct Sandbox {
    dir: TempDir,
    /// Set for every command.
    variables: Vec<(String, String)>,
}

/// A running server that is killed when dropped.
pub struct Running {
    process: child::Running,
    /// Open as long as the server may log.
    _log: BufReader<ChildStderr>,
}

/// The output of a command.
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", self.stdout, self.stderr))
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Sandbox {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), variables: Vec::new() }
    }

    /// Sets a variable for all following commands.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A command in this directory, without `DAPBOX_` variables but those that were set.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dapbox"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DAPBOX_")) {
            command.env_remove(name);
        }
        // Only the test sets proxies.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command.args(arguments).current_dir(self.dir.path()).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> CommandOutput {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {}{}", said.stdout, said.stderr);
        said
    }

    /// Starts a server with the configuration file of this directory.
    pub fn serve(&self) -> Running {
        let mut command = self.command(&["serve"]);
        small(&mut command);
        Self::started(command)
    }

    /// The same with the configured private listener.
    pub fn serve_watched(&self) -> Running {
        let mut command = self.command(&["serve"]);
        small(&mut command);
        command.env_remove("DAPBOX_MONITOR__LISTEN");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Self::started(command)
    }

    fn started(mut command: Command) -> Running {
        let mut process = child::Running::spawn(command.stderr(Stdio::piped()));
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains("\"serving\"") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it served: {all}");
            all.push_str(&line);
        }
        Running { process, _log: log }
    }

    /// Runs the doctor; returns the exit code and the findings.
    pub fn doctor(&self, arguments: &[&str]) -> (i32, Findings) {
        let mut command = self.command(&["doctor", "-o", "json"]);
        small(&mut command);
        let said = CommandOutput::from(command.args(arguments).output().unwrap());
        (said.code, Findings::new(said.json()))
    }

    /// Adds a task that this server leads, with a helper elsewhere.
    #[track_caller]
    pub fn lead(&self, name: &str, helper: &str) {
        let arguments = ["task", "new", "--leader", "http://127.0.0.1:1", "--helper", helper];
        self.succeed(&[&arguments[..], &["--vdaf", "count", "--out", name]].concat());
        self.succeed(&["task", "add", &format!("{name}/leader.toml"), "--any-url"]);
    }
}

/// Independent of the free space and of the usual monitoring port.
fn small(command: &mut Command) {
    command.env("DAPBOX_DISK__RESERVE_BYTES", "1048576").env("DAPBOX_DISK__BALLAST_BYTES", "1048576");
    command.env("DAPBOX_MONITOR__LISTEN", "");
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The findings of `check` or `doctor`.
pub struct Findings(Value);

impl Findings {
    #[track_caller]
    pub fn new(findings: Value) -> Self {
        for finding in findings.as_array().unwrap() {
            let is_ok = finding["outcome"] == "ok";
            assert_eq!(is_ok, finding.get("remedy").is_none(), "a remedy for each trouble, and only there: {finding}");
        }
        Self(findings)
    }

    /// Asserts a finding about a subject, with an outcome and a text.
    #[track_caller]
    pub fn expect(&self, name: &str, about: &str, outcome: &str, says: &str) {
        let found: Vec<_> = self.0.as_array().unwrap().iter().filter(|finding| finding["name"] == name).collect();
        let is_about =
            |finding: &Value| finding.get("subject").map_or("", |subject| subject.as_str().unwrap()) == about;
        let finding = found.iter().find(|finding| is_about(finding));
        let finding = finding.unwrap_or_else(|| panic!("no '{name}' about '{about}': {:#}", self.0));
        let text =
            format!("{} {}", finding["detail"].as_str().unwrap(), finding["remedy"].as_str().unwrap_or_default());
        assert!(finding["outcome"] == outcome && text.contains(says), "{finding:#}");
    }

    /// Asserts that there is no finding.
    #[track_caller]
    pub fn expect_none(&self, name: &str) {
        let found = self.0.as_array().unwrap().iter().find(|finding| finding["name"] == name);
        assert_eq!(found, None, "{name}");
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A certificate authority of the test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes the root certificate; returns its path.
    pub fn write(&self, dir: &Sandbox) -> String {
        fs::write(dir.path("root.pem"), &self.pem).unwrap();
        dir.path("root.pem").display().to_string()
    }

    /// Issues a certificate valid for 90 days, of which `left` and an hour remain; returns certificate and key as PEM.
    pub fn issue(&self, names: &[&str], left: i64) -> (String, String) {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        let day = std::time::Duration::from_secs(86_400);
        let now = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
        let end = if left >= 0 { now + day * left as u32 } else { now - day * (-left) as u32 };
        (params.not_before, params.not_after) = ((end - day * 90).into(), end.into());
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Issues a certificate into files.
    pub fn issue_files(&self, dir: &Sandbox, name: &str, names: &[&str], left: i64) {
        let (certificate, key) = self.issue(names, left);
        fs::write(dir.path(&format!("{name}.pem")), certificate).unwrap();
        fs::write(dir.path(&format!("{name}.key")), key).unwrap();
    }
}

/// Serves connections as long as the test runs.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Answers every request the same way.
pub fn answering(media_type: &str, date: &str, body: &[u8]) -> SocketAddr {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\ndate: {date}\r\n\
         cache-control: max-age=86400\r\nconnection: close\r\n\r\n"
    );
    let answer = [head.as_bytes(), body].concat();
    listen(move |mut stream| {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let _ = stream.write_all(&answer);
    })
}

/// Accepts every connection and never sends anything.
pub fn silent() -> SocketAddr {
    listen(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// Presents a certificate and sends nothing.
pub fn showing((certificate, key): (String, String)) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    listen(move |mut stream| {
        let mut connection = ServerConnection::new(config.clone()).unwrap();
        // A client that rejects the certificate disconnects.
        while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        let _ = stream.read_to_end(&mut Vec::new());
    })
}
