//! Pebble and its name server.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::appliance::{Reserved, TEST_TIMEOUT, reserve};
use crate::common::child;

/// The interval of connection attempts to a starting program.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The files and addresses of an authority.
pub struct Means {
    pub acme: Reserved,
    management: Reserved,
    /// The port at which it validates challenges.
    tls_port: u16,
    /// The validity of its certificates, in seconds.
    pub lifetime: u64,
    dir: TempDir,
    pub certificate: String,
    pub key: String,
}

impl Means {
    pub fn new(tls_port: u16) -> Self {
        let dir = TempDir::new().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
        let (acme, management) = (reserve(), reserve());
        Self { acme, management, tls_port, lifetime: 90 * 86_400, dir, certificate, key: key.serialize_pem() }
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.acme.address)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

/// A process that is killed when dropped, with its output.
struct Running {
    process: child::Running,
    output: Arc<Mutex<String>>,
}

impl Running {
    /// Starts a process and waits for its readiness message.
    async fn start(mut command: Command, ready: &'static str) -> Self {
        let mut process =
            child::Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let (stdout, output) = (process.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let (sender, said) = oneshot::channel();
        let shared = output.clone();
        thread::spawn(move || {
            let mut sender = Some(sender);
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                shared.lock().unwrap().push_str(&format!("{line}\n"));
                if line.contains(ready) {
                    let _ = sender.take().map(|sender| sender.send(()));
                }
            }
        });
        let said = tokio::time::timeout(TEST_TIMEOUT, said).await.unwrap();
        assert!(said.is_ok(), "{command:?} ended: {}", output.lock().unwrap());
        Self { process, output }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects until it succeeds: both programs report readiness before they listen.
async fn ask(client: &Client, url: &str, body: Option<String>) -> String {
    let asked = async {
        loop {
            let request = match &body {
                Some(body) => client.post(url).body(body.clone()),
                None => client.get(url),
            };
            match request.send().await {
                Ok(answer) => return answer.error_for_status().unwrap().text().await.unwrap(),
                Err(error) => assert!(error.is_connect(), "{error:?}"),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, asked).await.unwrap()
}

/// A name server that resolves all names to this machine by default.
pub struct Dns {
    address: SocketAddr,
    management: SocketAddr,
    _process: Running,
    _ports: [Reserved; 2],
}

impl Dns {
    pub async fn start() -> Self {
        let ports = [reserve(), reserve()];
        let [address, management] = [ports[0].address, ports[1].address];
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        command.args(["-dns01", &address.to_string(), "-management", &management.to_string()]);
        let process = Running::start(command, "Starting management server").await;
        let dns = Self { address, management, _process: process, _ports: ports };
        dns.lead("ready.example.test", "127.0.0.1").await;
        dns
    }

    /// Sets the address of a name.
    pub async fn lead(&self, name: &str, address: &str) {
        let client = Client::builder().no_proxy().build().unwrap();
        let url = |method: &str| format!("http://{}/{method}", self.management);
        ask(&client, &url("clear-a"), Some(json!({ "host": name }).to_string())).await;
        ask(&client, &url("add-a"), Some(json!({ "host": name, "addresses": [address] }).to_string())).await;
    }
}

/// A running Pebble.
pub struct Authority {
    management: SocketAddr,
    client: Client,
    process: Running,
}

impl Authority {
    pub async fn start(means: &Means, dns: &Dns, environment: &[(&str, &str)]) -> Self {
        let dir = means.dir.path();
        let (config, certificate, key) = (dir.join("pebble.json"), dir.join("server.pem"), dir.join("server.key"));
        fs::write(&certificate, &means.certificate).unwrap();
        fs::write(&key, &means.key).unwrap();
        let settings = json!({ "pebble": {
            "listenAddress": means.acme.address.to_string(),
            "managementListenAddress": means.management.address.to_string(),
            "certificate": certificate,
            "privateKey": key,
            "httpPort": 1,
            "tlsPort": means.tls_port,
            "certificateValidityPeriod": means.lifetime,
        }});
        fs::write(&config, settings.to_string()).unwrap();
        let mut command = Command::new("pebble");
        command.arg("-config").arg(config).args(["-dnsserver", &dns.address.to_string()]);
        // Challenges are validated each time and without delay, and no valid nonce is rejected.
        let usual = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_WFE_NONCEREJECT", "0")];
        command.envs(usual).envs(environment.iter().copied());
        let process = Running::start(command, "ACME directory available at").await;
        let ca = Certificate::from_pem(&fs::read(means.ca_file()).unwrap()).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
        ask(&client, &means.directory(), None).await;
        Self { management: means.management.address, client, process }
    }

    /// The root of its certificates.
    pub async fn root(&self) -> Certificate {
        let pem = ask(&self.client, &format!("https://{}/roots/0", self.management), None).await;
        Certificate::from_pem(pem.as_bytes()).unwrap()
    }

    /// The number of certificate orders.
    pub fn orders(&self) -> usize {
        self.process.output.lock().unwrap().matches("POST /order-plz").count()
    }
}
