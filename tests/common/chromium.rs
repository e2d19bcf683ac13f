//! A headless Chromium, driven by its DevTools protocol over two pipes: JSON messages, each terminated by a zero byte.
//! Only the browser is needed, and it ends with the test.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use warp::Filter;

use super::skip::{find_program, has_programs};

/// Timeout of every command.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Names of the browser's program.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Its arguments. Tests may run as root, and the browser sends no requests of its own.
const OPTIONS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--no-proxy-server",
];

/// Keys that tests press.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Enter,
    Tab,
    ShiftTab,
}

/// A browser with one page.
pub struct Chromium {
    process: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    events: Vec<Value>,
    last: u64,
    session: Option<String>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts an installed browser. If none is installed, the test is skipped and must return.
    #[track_caller]
    pub fn installed() -> Option<Self> {
        let program = PROGRAMS.iter().find(|program| find_program(program).is_some());
        let Some(program) = program else {
            has_programs(&PROGRAMS[..1]);
            return None;
        };
        Some(Self::start(program).unwrap())
    }

    /// Starts the browser; the error says why it does not start.
    fn start(program: &str) -> Result<Self, String> {
        let profile = tempfile::tempdir().map_err(|error| error.to_string())?;
        // It reads descriptor 3 and writes descriptor 4.
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh", program]).args(OPTIONS);
        shell.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let spawned = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = spawned.map_err(|error| format!("{shell:?}: {error}"))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else { unreachable!() };
        let (events, messages) = (Vec::new(), read(output));
        let mut browser = Self { process, input, messages, events, last: 0, session: None, _profile: profile };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": page, "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Ok(browser)
    }

    /// Calls a method; returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).unwrap();
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let answer = self.next(deadline).unwrap_or_else(|| panic!("no answer to {method}"));
            if answer["id"] == self.last {
                assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn next(&self, deadline: Instant) -> Option<Value> {
        self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Leaves the page. Returns the browser's complaints and its requests to other URLs than those below `url`.
    pub fn complaints(&mut self, url: &str) -> Vec<Value> {
        // The page polls its own URL until it is left.
        self.open("about:blank");
        let is_wrong = |event: &Value| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Log.entryAdded" | "Runtime.consoleAPICalled" => true,
            "Network.requestWillBeSent" => {
                let asked = event["params"]["request"]["url"].as_str().unwrap();
                !asked.starts_with(url) && !asked.starts_with("data:") && asked != "about:blank"
            }
            _ => false,
        };
        self.events().into_iter().filter(is_wrong).collect()
    }

    /// Expands all details of the page and returns the problems of its layout, in a window of this width.
    pub fn audit(&mut self, width: u32) -> Value {
        self.value("document.querySelectorAll('details').forEach((part) => part.open = true)");
        self.value(&include_str!("audit.js").replace("WIDTH", &width.to_string()))
    }

    /// All events since the last call of this function.
    fn events(&mut self) -> Vec<Value> {
        self.events.extend(self.messages.try_iter());
        std::mem::take(&mut self.events)
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(gone.get("errorText"), None, "{url}");
        let loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        if let Some(at) = self.events.iter().position(loaded) {
            self.events.remove(at);
            return;
        }
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            match self.next(deadline).unwrap_or_else(|| panic!("{url} is not loaded")) {
                event if loaded(&event) => return,
                event => self.events.push(event),
            }
        }
    }

    /// The value of an expression, or of its promise, in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits for a condition of the page, evaluated after each change.
    pub fn until(&mut self, condition: &str) {
        let limit = TEST_TIMEOUT.as_millis() / 2;
        let is_so = self.value(&format!(
            "new Promise((done) => {{
                const is = () => {condition};
                if (is()) return done(true);
                const all = {{ subtree: true, childList: true, attributes: true, characterData: true }};
                const watcher = new MutationObserver(() => {{ if (is()) {{ watcher.disconnect(); done(true); }} }});
                watcher.observe(document, all);
                setTimeout(() => done(is()), {limit});
            }})"
        ));
        if is_so != true {
            panic!("it is never so: {condition}\n{}", self.text());
        }
    }

    /// The text of the page as laid out.
    pub fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Sets the window size.
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sets the preferred colour scheme.
    pub fn scheme(&mut self, scheme: &str) {
        self.medium("screen", scheme);
    }

    /// Sets the medium, `screen` or `print`, and the preferred colour scheme.
    pub fn medium(&mut self, medium: &str, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"media": medium, "features": [feature]}));
    }

    /// Enables or disables scripts for following pages.
    pub fn scripts(&mut self, are_run: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !are_run}));
    }

    /// Presses a key.
    pub fn press(&mut self, key: Key) {
        const SHIFT: u32 = 8;
        let (name, code, text, modifiers) = match key {
            Key::Enter => ("Enter", 13, "\r", 0),
            Key::Tab => ("Tab", 9, "", 0),
            Key::ShiftTab => ("Tab", 9, "", SHIFT),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code, "text": text, "modifiers": modifiers,
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Writes a picture of the whole page as PNG to the directory that the variable `DRAW_PAGES` names, if there is one.
    pub fn draw(&mut self, name: &str) {
        let Some(dir) = env::var_os("DRAW_PAGES").map(PathBuf::from) else { return };
        let taken = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let picture = BASE64_STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name).with_extension("png"), picture).unwrap();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves a page that does not change, at all paths of the returned URL.
pub async fn serve_page(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(warp::serve(warp::any().map(move || warp::reply::html(page.clone()))).incoming(listener).run());
    url
}

/// Reads messages as they arrive.
fn read(output: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for message in BufReader::new(output).split(0).map_while(Result::ok) {
            if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}
