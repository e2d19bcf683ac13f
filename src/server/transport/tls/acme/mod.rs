//! Certificates from an authority, by ACME (RFC 8555), and renewed in time.
//!
//! The authority is convinced with TLS-ALPN-01 (RFC 8737): it connects to port 443 of each domain and asks for the
//! protocol `acme-tls/1`, and is shown a certificate of its own. No other port and no access to the DNS is needed.
//!
//! Authorities limit how often they can be asked. So what they have given out is kept (`keep`), an attempt that failed is
//! followed by a pause, and whatever fails, the certificate that is there stays in use.

mod authority;
mod issued;
mod keep;
mod order;
mod trouble;

use std::{future::Future, sync::Arc, time::Duration};

use self::{
    authority::Authority,
    issued::{Issued, Validity},
    keep::Keep,
    order::Applicant,
    trouble::Trouble,
};
use crate::app::App;
use dapbox_client::peer::Backoff;
use dapbox_protocol::model::Time;
use dapbox_support::{Fault, Part, clock};

/// How often the clock is looked at while there is nothing to do: machines sleep, and clocks are set.
const LOOK: Duration = Duration::from_secs(3600);
/// The shortest pause after the authority said that it was asked too often, where it did not say how long to wait.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(3600);

/// Shows the certificate that was kept, if there is one, before this returns. Then gets one when there is none or when it
/// is time to renew it, until the server stops.
pub fn drive(app: Arc<App>) -> impl Future<Output = Result<(), Fault>> {
    let (mut options, certificates) = (app.config.acme.clone(), app.certificates.clone());
    options.domains.iter_mut().for_each(|domain| domain.make_ascii_lowercase());
    let keep = Keep::new(&app.config.data_dir, &options);
    let driver = Driver { applicant: Applicant { options, keep, certificates } };
    let kept = driver.kept();
    async move {
        app.failpoints.turn(Part::Acme);
        tokio::select! {
            () = driver.run(kept) => {}
            () = app.stopped() => {}
        }
        Ok(())
    }
}

struct Driver {
    applicant: Applicant,
}

impl Driver {
    /// Shows the certificate that was kept.
    fn kept(&self) -> Option<Validity> {
        let path = &self.applicant.keep.certificate;
        let read = keep::read(path).map_err(|error| error.to_string());
        let parsed = read.and_then(|pem| pem.map(|pem| Issued::parse(&pem, self.domains())).transpose());
        match parsed {
            // One that is over is better than none: who connects is told what is wrong.
            Ok(kept) => kept.map(|kept| self.show(kept)),
            Err(why) => {
                tracing::warn!(path = %path.display(), error = %why, "stored certificate unusable");
                None
            }
        }
    }

    fn show(&self, issued: Issued) -> Validity {
        self.applicant.certificates.replace(issued.certified);
        issued.validity
    }

    fn domains(&self) -> &[String] {
        &self.applicant.options.domains
    }

    /// Gets certificates for ever.
    async fn run(&self, mut current: Option<Validity>) {
        loop {
            if let Some(validity) = current {
                wait_until(validity.renewal(rand::random())).await;
            }
            current = Some(self.obtain().await);
            // An authority whose certificates hardly live is not asked more often than one that fails.
            tokio::time::sleep(*self.applicant.options.retry_initial).await;
        }
    }

    /// Asks until there is a certificate.
    async fn obtain(&self) -> Validity {
        let options = &self.applicant.options;
        let least = *options.retry_initial;
        let mut backoff = Backoff::new(least, options.retry_max.saturating_sub(least));
        loop {
            let (trouble, asked) = match self.attempt().await {
                Ok(issued) => {
                    // Whoever reads that it is there may connect at once.
                    let validity = self.show(issued);
                    let names = self.domains().join(", ");
                    tracing::info!(%names, not_after = validity.not_after.0, "certificate issued");
                    return validity;
                }
                Err(failure) => failure,
            };
            let rate_limit = trouble.is_rate_limit().then_some(RATE_LIMIT_PAUSE);
            let asked = asked.or(rate_limit).unwrap_or_default();
            let pause = least.saturating_add(backoff.next_delay(None)).saturating_add(asked);
            let remedy = trouble.remedy();
            self.applicant.certificates.set_trouble(Some(format!("{trouble}: {remedy}")));
            tracing::warn!(error = %trouble, hint = remedy, delay = ?pause, "certificate order failed");
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt. A failure comes with the pause that the authority asked for.
    async fn attempt(&self) -> Result<Issued, (Trouble, Option<Duration>)> {
        let authority = Authority::new(&self.applicant.options.directory_ca_file);
        let authority = authority.map_err(|unasked| (unasked.into(), None))?;
        let issued = self.applicant.apply(&authority).await;
        issued.map_err(|trouble| (trouble, authority.take_pause()))
    }
}

/// Waits for a time by the system's clock.
async fn wait_until(time: Time) {
    loop {
        let left = Duration::from_secs(time.0.saturating_sub(clock::now().0));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
