//! The page of the public address: what answers here, and where the DAP resources are.

use maud::{DOCTYPE, PreEscaped, html};

use super::hash;
use dapbox_client::peer;
use dapbox_protocol::{model::Revision, wire};

/// How the page looks.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;\
    color-scheme:light dark}code{overflow-wrap:anywhere}dt{font-weight:600;margin-top:.75rem}dd{margin:0}";

/// The content security policy that the response with the page must have.
pub fn policy() -> String {
    format!("default-src 'none'; style-src '{}'; frame-ancestors 'none'", hash(STYLE))
}

/// Draws the page. Without a public URL the resources are named by their paths.
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
                    "This server aggregates measurements without seeing any of them, by the Distributed Aggregation Protocol \
                     (draft-ietf-ppm-dap). It runs dapbox. Programs use the resources below these URLs:"
                }
                dl {
                    @for revision in Revision::ALL {
                        dt { (wire::for_revision(revision).path_prefix()) }
                        dd { code { (base(revision)) } }
                        dd { "HPKE keys for clients: " code { (base(revision)) "hpke_config" } }
                    }
                }
                p { "There is nothing else for a browser. The operator's status page is on another, private address." }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_where_each_revision_is() {
        let page = render("https://dap.example.org/x");
        for revision in ["dap-09", "dap-18"] {
            assert!(page.contains(&format!("https://dap.example.org/x/{revision}/hpke_config")), "{page}");
        }
        assert!(render("").contains("<code>/dap-09/hpke_config</code>"));
        assert!(!render("https://a.example/<b>").contains("<b>"));
    }
}
