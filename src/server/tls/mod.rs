//! HTTPS: the certificate that is shown, and where it comes from.

mod certificates;

pub use certificates::Certificates;
