//! One attempt to obtain a certificate: account, order, challenges, certificate (RFC 8555 section 7.4).

use std::{path::Path, sync::Arc, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{pki_types::PrivateKeyDer, sign::CertifiedKey};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{
    super::{Certificates, provider},
    authority::Authority,
    error::AcmeError,
    issued::IssuedCertificate,
    storage::{self, AcmeStorage},
};
use crate::shared::clock::Clock;
use dapbox_aggregator::config::Acme;

/// Timeout of an attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);
/// Polling of the CA.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(120));

/// Requests certificates.
pub struct CertificateRequester {
    /// The options. Domains are in lower case.
    pub options: Acme,
    /// The stored files.
    pub storage: AcmeStorage,
    /// Serves the challenge certificates.
    pub certificates: Arc<Certificates>,
    /// Schedules renewals and checks validity.
    pub clock: Arc<dyn Clock>,
}

/// The stored account.
#[derive(Serialize, Deserialize)]
struct StoredAccount {
    contact: String,
    credentials: AccountCredentials,
}

/// Removes the challenge certificates at the end of an attempt.
struct ChallengeGuard<'a>(&'a Certificates);

impl Drop for ChallengeGuard<'_> {
    fn drop(&mut self) {
        self.0.clear_challenges();
    }
}

impl CertificateRequester {
    /// Requests a certificate once, and stores it.
    pub async fn apply(&self, authority: &Authority) -> Result<IssuedCertificate, AcmeError> {
        let storage = self.storage.clone();
        self.on_disk(move || storage.prepare(), &self.storage.certificate).await?;
        let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, self.obtain(authority)).await;
        let pem = attempt.map_err(|_| AcmeError::Timeout)??;
        let issued = IssuedCertificate::parse(&pem, &self.options.domains).map_err(AcmeError::UnsuitableCertificate)?;
        issued.validity.check(self.clock.now()).map_err(AcmeError::UnsuitableCertificate)?;
        let path = self.storage.certificate.clone();
        let kept = self.on_disk(move || storage::write(&path, pem.as_bytes()), &self.storage.certificate).await;
        if let Err(error) = kept {
            // The certificate is valid. Requesting another one would fail for the same reason.
            tracing::error!(%error, hint = error.remedy(), "cannot store certificate");
        }
        Ok(issued)
    }

    /// Obtains the private key and the certificate chain, as PEM.
    async fn obtain(&self, authority: &Authority) -> Result<Zeroizing<String>, AcmeError> {
        let mut order = match self.order(authority).await {
            Err(error) if error.is_unknown_account() => {
                tracing::warn!("ACME account unknown to authority");
                let path = self.storage.account.clone();
                self.on_disk(move || storage::forget(&path), &self.storage.account).await?;
                self.order(authority).await?
            }
            order => order?,
        };
        let _shown = ChallengeGuard(&self.certificates);
        self.validate(&mut order).await?;
        let key = KeyPair::generate().map_err(internal)?;
        let mut params = CertificateParams::new(self.options.domains.clone()).map_err(internal)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(internal)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&POLLING).await?;
        let mut pem = Zeroizing::new(key.serialize_pem());
        pem.push_str(&chain);
        Ok(pem)
    }

    async fn order(&self, authority: &Authority) -> Result<Order, AcmeError> {
        let account = self.account(authority).await?;
        let domains = self.options.domains.iter();
        let identifiers: Vec<_> = domains.map(|domain| Identifier::Dns(domain.clone())).collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        if order.state().authorizations.len() > identifiers.len() {
            return Err(AcmeError::Unexpected("more authorizations than domains".to_owned()));
        }
        Ok(order)
    }

    /// Loads our account, or creates it.
    async fn account(&self, authority: &Authority) -> Result<Account, AcmeError> {
        let (path, email) = (self.storage.account.clone(), &self.options.contact_email);
        let contact = if email.is_empty() { String::new() } else { format!("mailto:{email}") };
        let contacts: Vec<&str> = (!contact.is_empty()).then_some(contact.as_str()).into_iter().collect();
        let builder = Account::builder_with_http(Box::new(authority.clone()));
        let stored = self.on_disk(move || storage::read(&path), &self.storage.account).await?;
        let stored = stored.map(|text| serde_json::from_str::<StoredAccount>(&text));
        match stored {
            Some(Ok(stored)) if stored.contact == contact => {
                return Ok(builder.from_credentials(stored.credentials).await?);
            }
            Some(Ok(stored)) => {
                let stored = StoredAccount { contact: contact.clone(), ..stored };
                let text = Zeroizing::new(serde_json::to_string(&stored).map_err(internal)?);
                let account = builder.from_credentials(stored.credentials).await?;
                account.update_contacts(&contacts).await?;
                self.keep_account(text).await?;
                return Ok(account);
            }
            // The error omits the text, which is secret.
            Some(Err(_)) => tracing::warn!(path = %self.storage.account.display(), "stored ACME account unusable"),
            None => {}
        }
        let new = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&new, self.options.directory.clone(), None).await?;
        let text = serde_json::to_string(&StoredAccount { contact: contact.clone(), credentials }).map_err(internal)?;
        self.keep_account(Zeroizing::new(text)).await?;
        tracing::info!(url = %self.options.directory, "ACME account created");
        Ok(account)
    }

    async fn keep_account(&self, text: Zeroizing<String>) -> Result<(), AcmeError> {
        let path = self.storage.account.clone();
        self.on_disk(move || storage::write(&path, text.as_bytes()), &self.storage.account).await
    }

    /// Proves control of the domains, and waits for the validation.
    async fn validate(&self, order: &mut Order) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                // CAs remember validations for a while.
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(AcmeError::Unexpected(format!("an authorization with status {status:?}"))),
            }
            let domain = match authorization.identifier().identifier {
                Identifier::Dns(name) if self.options.domains.contains(&name.to_ascii_lowercase()) => name.clone(),
                _ => return Err(AcmeError::Unexpected("an authorization for a foreign domain".to_owned())),
            };
            let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                return Err(AcmeError::NoChallenge(domain));
            };
            let answer = answer(&domain, challenge.key_authorization().digest().as_ref())?;
            self.certificates.set_challenge(&domain, answer);
            challenge.set_ready().await?;
        }
        match order.poll_ready(&POLLING).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => {
                Err(validation_problem(order).await.unwrap_or(AcmeError::Unexpected("an invalid order".to_owned())))
            }
            Err(error) => Err(validation_problem(order).await.unwrap_or(error.into())),
        }
    }

    /// Runs file operations on a blocking thread.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
        path: &Path,
    ) -> Result<T, AcmeError> {
        let done = spawn_blocking(work).await.map_err(internal)?;
        done.map_err(|error| AcmeError::File { path: path.to_owned(), error })
    }
}

/// The challenge certificate (RFC 8737 section 3).
fn answer(domain: &str, digest: &[u8]) -> Result<CertifiedKey, AcmeError> {
    let mut params = CertificateParams::new([domain.to_owned()]).map_err(internal)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(internal)?;
    let certificate = params.self_signed(&key).map_err(internal)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let key = provider().key_provider.load_private_key(key).map_err(internal)?;
    // Not checked, because only a CA understands its critical extension.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

/// The CA's problem with the first domain that failed validation.
async fn validation_problem(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let domain = state.identifier().to_string();
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.clone()) {
            return Some(AcmeError::NotValidated { domain, problem });
        }
    }
    None
}

fn internal(error: impl std::fmt::Display) -> AcmeError {
    AcmeError::Internal(error.to_string())
}
