//! Parsers of `resolv.conf` and the hosts file.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::Name;

/// The supported settings of `resolv.conf` (resolv.conf(5)), with the limits of the C library.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// The name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains for short names.
    pub search: Vec<Name>,
    /// Minimum number of dots of a name that is first tried without a search domain.
    pub ndots: usize,
    /// Timeout of one attempt.
    pub timeout: Duration,
    /// Number of attempts per name server.
    pub attempts: usize,
    /// Whether to enable EDNS, for long responses (RFC 6891).
    pub edns0: bool,
    /// Entries that are invalid.
    pub unusable: Vec<String>,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            edns0: false,
            unusable: Vec::new(),
        }
    }
}

impl ResolvConf {
    /// Parses the file. Invalid entries do not affect the others.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = words(line, &['#', ';']);
            match words.next() {
                Some("nameserver") => {
                    conf.servers.extend(words.next().and_then(|word| usable(word, &mut conf.unusable)))
                }
                // The last of several entries applies.
                Some("search" | "domain") => {
                    conf.search = words
                        .filter(|word| *word != "--")
                        .filter_map(|word| {
                            let name = Name::from_str_relaxed(word).ok();
                            if name.is_none() {
                                conf.unusable.push(format!("search {word}"));
                            }
                            name
                        })
                        .collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf
    }

    /// Ignores unsupported options.
    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        if name == "edns0" {
            self.edns0 = true;
        }
        if !["ndots", "timeout", "attempts"].contains(&name) {
            return;
        }
        match (name, value.parse::<u64>()) {
            ("ndots", Ok(number)) => self.ndots = number.min(15) as usize,
            // Zero means one second, or one attempt.
            ("timeout", Ok(number)) => self.timeout = Duration::from_secs(number.clamp(1, 30)),
            ("attempts", Ok(number)) => self.attempts = number.clamp(1, 5) as usize,
            _ => self.unusable.push(format!("options {word}")),
        }
    }
}

fn usable(word: &str, unusable: &mut Vec<String>) -> Option<IpAddr> {
    let address = word.parse().ok();
    if address.is_none() {
        unusable.push(format!("nameserver {word}"));
    }
    address
}

/// The addresses of a host in the text of a hosts file (hosts(5)), without duplicates.
pub fn addresses_of(hosts: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = words(line, &['#']);
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if let Some(address) = address
            && words.any(|name| name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(host))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The words of a line up to a comment.
fn words<'a>(line: &'a str, comments: &[char]) -> impl Iterator<Item = &'a str> {
    line.split(comments).next().unwrap_or_default().split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str_relaxed(text).unwrap()
    }

    #[test]
    fn keeps_valid_entries_and_reports_invalid_ones() {
        let bad = "x".repeat(64);
        let conf = ResolvConf::parse(&format!(
            "# made by hand\nnameserver 10.0.0.1 # first\nnameserver fe80::1%eth0\nnameserver fd00::1\nsearch old.example\n\
             search lan {bad}.example corp_1.example -- .\noptions timeout:0 attempts:0 ndots:x edns0 rotate\n\
             options ndots:99\nsortlist 10.0.0.0\n nonsense\n;nameserver 10.0.0.9\n"
        ));
        let servers: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(conf.servers, servers);
        assert_eq!(conf.search, [name("lan"), name("corp_1.example"), name(".")]);
        assert_eq!((conf.timeout, conf.attempts, conf.ndots, conf.edns0), (Duration::from_secs(1), 1, 15, true));
        let unusable = ["nameserver fe80::1%eth0", &format!("search {bad}.example"), "options ndots:x"];
        assert_eq!(conf.unusable, unusable);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }

    #[test]
    fn finds_all_addresses_of_a_host() {
        let hosts = "127.0.0.1\tlocalhost\n192.0.2.1 Leader.example leader # ours\n::2 leader.example.\n\
                     #192.0.2.9 leader.example\nnot-an-address leader.example\n192.0.2.1 leader.example\n192.0.2.3";
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "::2".parse().unwrap()];
        assert_eq!(addresses_of(hosts, "leader.EXAMPLE"), expected);
        assert_eq!(addresses_of(hosts, "ours"), Vec::<IpAddr>::new());
        assert_eq!(addresses_of(hosts, "192.0.2.3"), Vec::<IpAddr>::new());
    }
}
