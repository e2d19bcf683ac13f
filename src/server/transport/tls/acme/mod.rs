//! Certificates by ACME (RFC 8555), renewed automatically.
//!
//! # Decision: TLS-ALPN-01 on port 443 only
//!
//! The certificate authority (CA) connects to port 443 of each domain and requests the protocol `acme-tls/1`
//! (RFC 8737). The server answers with a challenge certificate. No other port and no access to the DNS is needed.
//!
//! CAs limit the rate of requests. The account and the certificate are therefore stored (`storage`), and the delay grows
//! with each failed attempt. A certificate is renewed when a third of its lifetime is left. The current certificate stays
//! in use after any failure.
//!
//! # Decision: `instant-acme` rather than `rustls-acme`
//!
//! `rustls-acme` owns the loop of orders and renewals and its HTTP client. It retries after one second, ignores
//! `Retry-After`, supports no proxies, and does not check the issued certificate. `instant-acme` implements the protocol
//! and leaves these decisions to this module, which also stores the account and the certificate durably, and shows the
//! operator a hint for each error.

mod authority;
mod error;
mod issued;
mod order;
mod storage;

use std::{future::Future, time::Duration};

use self::{
    authority::Authority,
    error::AcmeError,
    issued::{IssuedCertificate, Validity},
    order::CertificateRequester,
    storage::AcmeStorage,
};
use super::TlsContext;
use crate::shared::clock::Clock;
use dapbox_client::peer::Backoff;
use dapbox_protocol::model::Time;
use dapbox_support::{Fault, Part};

/// Interval of reading the clock while waiting for the renewal: machines suspend, and clocks are set.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// Minimum delay after the CA has reported a rate limit without `Retry-After`.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(3600);

/// Installs the stored certificate, if any, before it returns. The future obtains and renews certificates until the server
/// stops.
pub fn drive(ctx: TlsContext) -> impl Future<Output = Result<(), Fault>> {
    let (config, certificates) = (ctx.config.get(), ctx.certificates.clone());
    let mut options = config.acme.clone();
    options.domains.iter_mut().for_each(|domain| domain.make_ascii_lowercase());
    let storage = AcmeStorage::new(&config.data_dir, &options);
    let driver =
        Driver { requester: CertificateRequester { options, storage, certificates, clock: ctx.clock.clone() } };
    let kept = driver.kept();
    async move {
        ctx.failpoints.turn(Part::Acme);
        tokio::select! {
            () = driver.run(kept) => {}
            () = ctx.stop.stopped() => {}
        }
        Ok(())
    }
}

struct Driver {
    requester: CertificateRequester,
}

impl Driver {
    /// Installs the stored certificate.
    fn kept(&self) -> Option<Validity> {
        let path = &self.requester.storage.certificate;
        let read = storage::read(path).map_err(|error| error.to_string());
        let parsed = read.and_then(|pem| pem.map(|pem| IssuedCertificate::parse(&pem, self.domains())).transpose());
        match parsed {
            // An expired certificate is better than none: clients then report the reason.
            Ok(kept) => kept.map(|kept| self.show(kept)),
            Err(why) => {
                tracing::warn!(path = %path.display(), error = %why, "stored certificate unusable");
                None
            }
        }
    }

    fn show(&self, issued: IssuedCertificate) -> Validity {
        self.requester.certificates.replace(issued.certified);
        issued.validity
    }

    fn domains(&self) -> &[String] {
        &self.requester.options.domains
    }

    /// Obtains and renews certificates forever.
    async fn run(&self, mut current: Option<Validity>) {
        loop {
            if let Some(validity) = current {
                wait_until(&*self.requester.clock, validity.renewal(rand::random())).await;
            }
            current = Some(self.obtain().await);
            // Limits the rate even if the CA issues certificates with very short lifetimes.
            self.requester.clock.sleep(*self.requester.options.retry_initial).await;
        }
    }

    /// Retries until a certificate is issued.
    async fn obtain(&self) -> Validity {
        let options = &self.requester.options;
        let least = *options.retry_initial;
        let mut backoff = Backoff::new(least, options.retry_max.saturating_sub(least));
        loop {
            let (error, asked) = match self.attempt().await {
                Ok(issued) => {
                    // Installed before the log line, because a reader may connect immediately.
                    let validity = self.show(issued);
                    let names = self.domains().join(", ");
                    tracing::info!(%names, not_after = validity.not_after.0, "certificate issued");
                    return validity;
                }
                Err(failure) => failure,
            };
            let rate_limit = error.is_rate_limit().then_some(RATE_LIMIT_PAUSE);
            let asked = asked.or(rate_limit).unwrap_or_default();
            let pause = least.saturating_add(backoff.next_delay(None)).saturating_add(asked);
            let remedy = error.remedy();
            self.requester.certificates.set_error(Some(format!("{error}: {remedy}")));
            tracing::warn!(%error, hint = remedy, delay = ?pause, "certificate order failed");
            self.requester.clock.sleep(pause).await;
        }
    }

    /// Runs one attempt. A failure includes the delay that the CA requests.
    async fn attempt(&self) -> Result<IssuedCertificate, (AcmeError, Option<Duration>)> {
        let authority = Authority::new(&self.requester.options.directory_ca_file);
        let authority = authority.map_err(|error| (error.into(), None))?;
        let issued = self.requester.apply(&authority).await;
        issued.map_err(|error| (error, authority.take_pause()))
    }
}

/// Waits until a time of day.
async fn wait_until(clock: &dyn Clock, time: Time) {
    loop {
        let left = Duration::from_secs(time.0.saturating_sub(clock.now().0));
        if left.is_zero() {
            return;
        }
        clock.sleep(left.min(CLOCK_CHECK_INTERVAL)).await;
    }
}
