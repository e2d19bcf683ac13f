//! HTTPS: the certificate that is shown, and where it comes from.

pub mod acme;
mod certificates;

pub use certificates::Certificates;
