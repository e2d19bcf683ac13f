//! Renders the page of the public address.

use maud::{DOCTYPE, PreEscaped, html};

use dapbox_client::peer;
use dapbox_pages::shell::hash;
use dapbox_protocol::{model::Revision, wire};

/// The style sheet.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;\
    color-scheme:light dark}code{overflow-wrap:anywhere}dt{font-weight:600;margin-top:.75rem}dd{margin:0}";

/// The content security policy of the response.
pub fn policy() -> String {
    format!("default-src 'none'; style-src '{}'; frame-ancestors 'none'", hash(STYLE))
}

/// Renders the page. Without a public URL, it shows relative paths.
pub fn render(public_url: &str) -> String {
    let base = |revision| match public_url {
        "" => format!("/{}/", wire::for_revision(revision).path_prefix()),
        url => peer::dap_url(url, revision),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { "DAP aggregator - dapbox" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "DAP aggregator" }
                p {
                    "This server runs dapbox. It aggregates measurements with the Distributed Aggregation Protocol (draft-ietf-ppm-dap), without access to individual ones. Base URLs for clients and aggregators:"
                }
                dl {
                    @for revision in Revision::ALL {
                        dt { (wire::for_revision(revision).path_prefix()) }
                        dd { code { (base(revision)) } }
                        dd { "HPKE keys for clients: " code { (base(revision)) "hpke_config" } }
                    }
                }
                p { "Browsers have no other use for this server. The status page of the operator is at another address." }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_url_of_each_revision() {
        let page = render("https://dap.example.org/x");
        for revision in ["dap-09", "dap-18"] {
            assert!(page.contains(&format!("https://dap.example.org/x/{revision}/hpke_config")), "{page}");
        }
        assert!(render("").contains("<code>/dap-09/hpke_config</code>"));
        assert!(!render("https://a.example/<b>").contains("<b>"));
    }
}
