//! URLs of resources at a peer.

use url::Url;

use super::RequestError;
use dapbox_protocol::{model::Revision, wire};

/// Maximum length of a `Location` header in bytes; a leader stores it.
const MAX_LOCATION: usize = 2048;

/// Joins a base URL and a path with exactly one slash. Keeps the bytes of `base`, which leader and helper compare.
pub fn join(base: &str, path: &str) -> String {
    format!("{}/{}", base.strip_suffix('/').unwrap_or(base), path)
}

/// The base URL of a revision, below the public URL of a dapbox aggregator.
pub fn dap_url(public_url: &str, revision: Revision) -> String {
    join(public_url, &format!("{}/", wire::for_revision(revision).path_prefix()))
}

/// Resolves a `Location` header (RFC 9110 section 10.2.2) to a path below `base`. `path` is the path of the request.
///
/// Fails for locations elsewhere, because the credentials of the request are for this peer only.
pub(super) fn resolve_location(base: &str, path: &str, location: &str) -> Result<String, RequestError> {
    let below = || {
        let asked = Url::parse(&join(base, path)).ok()?;
        let location = asked.join(location).ok()?;
        // Parsing has resolved all dot segments, so a prefix match is sufficient.
        let base = Url::parse(&join(base, "")).ok().filter(|base| base.origin() == location.origin())?;
        // A server may treat several trailing slashes of the base as one.
        let once = format!("{}/", base.path().trim_end_matches('/'));
        let rest = location.path().strip_prefix(base.path()).or_else(|| location.path().strip_prefix(&once));
        let rest = rest.filter(|rest| !rest.is_empty())?;
        Some(location.query().map_or_else(|| rest.to_owned(), |query| format!("{rest}?{query}")))
    };
    match location.len() {
        0..=MAX_LOCATION => {
            below().ok_or_else(|| RequestError::Unexpected(format!("location {location:?} is not below {base}")))
        }
        length => Err(RequestError::Unexpected(format!("location of {length} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_inserts_one_slash() {
        for base in ["https://EXAMPLE.com:443/a/../b", "https://EXAMPLE.com:443/a/../b/"] {
            assert_eq!(join(base, "tasks/x"), "https://EXAMPLE.com:443/a/../b/tasks/x");
        }
    }

    #[test]
    fn resolves_locations_below_the_base_url_only() {
        let asked = "tasks/x/jobs";
        for (base, location, place) in [
            // Absolute URL, absolute path, relative reference; with and without a path and a trailing slash.
            ("http://a.example", "http://a.example/tasks/x/jobs/1", "tasks/x/jobs/1"),
            ("http://a.example/", "/tasks/x/jobs/1", "tasks/x/jobs/1"),
            ("http://a.example/p/dap", "https://a.example/p/dap/jobs/1", ""),
            ("https://a.example/p/dap", "https://a.example/p/dap/jobs/1?step=0", "jobs/1?step=0"),
            ("https://a.example/p/dap", "HTTPS://A.example:443/p/./dap/x/../jobs/1", "jobs/1"),
            ("https://A.example:443/p/dap/", "//a.example/p/dap/jobs/1#part", "jobs/1"),
            ("https://a.example/p/dap/", "/p/dap/jobs/1?step=0&x=%2F", "jobs/1?step=0&x=%2F"),
            ("https://a.example/p/dap/", "jobs/1", "tasks/x/jobs/1"),
            ("https://a.example/p/dap/", "?step=0", "tasks/x/jobs?step=0"),
            ("https://a.example/p/dap/", "../../shares/1", "shares/1"),
            ("https://a.example/p/dap/", "", "tasks/x/jobs"),
            ("https://u:p@a.example/p/dap/", "https://a.example/p/dap/1", "1"),
            // The base has more trailing slashes than the location.
            ("https://a.example/p/dap//", "/p/dap/jobs/1", "jobs/1"),
            ("https://a.example/p/dap//", "/p/dap//jobs/1", "jobs/1"),
            // Locations elsewhere: another scheme, host or port, a path with a common prefix, escaping dot segments, the
            // base itself.
            ("https://a.example/p/dap/", "http://a.example/p/dap/1", ""),
            ("https://a.example/p/dap/", "https://a.example.evil/p/dap/1", ""),
            ("https://a.example/p/dap/", "https://a.example@evil.example/p/dap/1", ""),
            ("https://a.example/p/dap/", "//evil.example/p/dap/1", ""),
            ("https://a.example/p/dap/", r"\\evil.example\p\dap\1", ""),
            ("https://a.example/p/dap/", "https://a.example:444/p/dap/1", ""),
            ("https://a.example/p/dap", "/p/dap2/1", ""),
            ("https://a.example/p/dap/", "/p/1", ""),
            ("https://a.example/p/dap/", "/p/dap/../1", ""),
            ("https://a.example/p/dap/", "/p/dap/%2e%2E/1", ""),
            ("https://a.example/p/dap/", "../../../1", ""),
            ("https://a.example/p/dap/", "/p/dap/", ""),
            ("https://a.example/p/dap/", "/p/dap/?step=0", ""),
            ("https://a.example/p/dap/", "file:///p/dap/1", ""),
            ("https://a.example/p/dap/", "https://", ""),
            ("not a url", "/p/dap/1", ""),
        ] {
            let found = resolve_location(base, asked, location);
            match place {
                "" => assert!(matches!(&found, Err(RequestError::Unexpected(_))), "{base} {location}: {found:?}"),
                place => assert_eq!(found.as_deref(), Ok(place), "{base} {location}"),
            }
        }
        assert!(resolve_location("https://a.example", asked, &format!("/{}", "x".repeat(MAX_LOCATION))).is_err());
        // A path that looks like another host stays a path.
        let place = resolve_location("https://a.example/dap", asked, "/dap//evil.example/1").unwrap();
        assert_eq!(join("https://a.example/dap", &place), "https://a.example/dap//evil.example/1");
        assert_eq!(resolve_location("https://a.example/dap", &place, "2").as_deref(), Ok("/evil.example/2"));
    }
}
