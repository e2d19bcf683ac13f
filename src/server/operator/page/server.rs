//! The section about the server: uptime, load, disk, certificate and keys.

use maud::{Markup, html};

use super::{
    icon::Icon,
    text::{instant, moment},
};
use dapbox_aggregator::views::{
    overview::{CertificateStatus, KeyStatus, Overview, TlsStatus},
    status::DiskStatus,
};
use dapbox_protocol::model::{Duration, KeyState, Time};
use dapbox_support::format::{bytes, count, relative, span};

/// Renders the section.
pub fn section(overview: &Overview) -> Markup {
    let now = overview.now;
    html! {
        section #of-server aria-labelledby="server" {
            h2 #server { "Server" }
            div.cards {
                (running(overview))
                (disk(&overview.disk))
                (tls(overview.tls.as_ref(), now))
                (work(overview))
                (keys(&overview.keys, now))
            }
        }
    }
}

fn running(overview: &Overview) -> Markup {
    let up = Duration(overview.now.0.saturating_sub(overview.started.0));
    html! {
        div.card.row {
            h3 { "Running for" }
            p.big { (span(up)) }
            p { "since " (instant(overview.started, overview.now)) }
            p.dim.long { "version " (overview.version) }
        }
    }
}

fn work(overview: &Overview) -> Markup {
    let load = overview.load;
    html! {
        div.card.row {
            h3 { "Load" }
            dl.figures {
                dt { "connections" } dd { (count(load.connections)) }
                dt { "requests" } dd { (count(load.requests)) }
                dt { "jobs computing" } dd { (count(load.computing)) }
                dt { "commits to disk" } dd { (count(load.commits)) }
            }
        }
    }
}

fn disk(disk: &DiskStatus) -> Markup {
    html! {
        div.card {
            h3 { "Disk" }
            p.big { (bytes(disk.free_bytes)) " " small { "free" } }
            p {
                @if disk.is_short {
                    (Icon::Bad.draw()) "Low: uploads and new jobs are rejected until "
                    (bytes(disk.needed_bytes)) " are free"
                } @else if disk.reserve_bytes > 0 {
                    (Icon::Good.draw()) "Enough; below " (bytes(disk.reserve_bytes)) " uploads are refused"
                } @else {
                    "No reserve"
                }
            }
            p.dim { @if disk.has_ballast { "ballast file present" } @else { "no ballast file" } }
            p.dim.long { code { (disk.dir.display()) } }
        }
    }
}

fn tls(tls: Option<&TlsStatus>, now: Time) -> Markup {
    html! {
        div.card {
            h3 { "Certificate" }
            @match tls {
                None => {
                    p.big { "none" }
                    p { "Plain HTTP, for loopback or behind a proxy that terminates HTTPS." }
                }
                Some(TlsStatus { certificate: None, .. }) => {
                    p.big { "none yet" }
                    p { (Icon::Bad.draw()) "Clients cannot connect" }
                }
                Some(TlsStatus { certificate: Some(certificate), .. }) => (validity(certificate, now)),
            }
            @if tls.is_some_and(|tls| tls.last_error.is_some()) {
                p { (Icon::Bad.draw()) "The last attempt to obtain one failed, see above" }
            }
        }
    }
}

fn validity(certificate: &CertificateStatus, now: Time) -> Markup {
    let days = certificate.not_after.0.saturating_sub(now.0) / 86_400;
    html! {
        @if certificate.not_after <= now {
            p.big { "expired" }
            p { (Icon::Bad.draw()) (moment(certificate.not_after, now)) }
        } @else {
            p.big { (count(days)) " " small { @if days == 1 { "day left" } @else { "days left" } } }
            p { "until " (instant(certificate.not_after, now)) }
        }
        @if certificate.not_before > now {
            p { (Icon::Later.draw()) "not valid before " (instant(certificate.not_before, now)) }
        }
        p.long { (certificate.names.join(", ")) }
    }
}

fn keys(keys: &[KeyStatus], now: Time) -> Markup {
    html! {
        div.card.wide {
            h3 { "HPKE keys" }
            @if keys.is_empty() { p.dim { "No keys: clients cannot upload." } }
            ul.keys {
                @for key in keys { (key_row(key, now)) }
            }
        }
    }
}

fn key_row(key: &KeyStatus, now: Time) -> Markup {
    let icon = match key.state {
        KeyState::Pending => Icon::Later,
        KeyState::Active => Icon::Good,
        KeyState::Expired => Icon::Still,
    };
    html! {
        li {
            span.state { (icon.draw()) b { "Key " (key.id) } " " (key.state.name()) }
            span.suite { (key.suite) }
            span.dim {
                "made " (relative(key.created, now))
                @if let Some(until) = key.until { ", " (key.state.end_label()) " " (relative(until, now)) }
            }
        }
    }
}
