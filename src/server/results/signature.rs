//! Signatures of notifications: HMAC-SHA256 over the time and the body.

use aws_lc_rs::hmac;

use dapbox_protocol::model::{Secret, Time};

/// The value of the signature's header: `t=TIME,v1=HEX`, where the signature covers `TIME.BODY`. The time lets a receiver
/// reject old notifications that are sent again.
pub fn header(secret: &Secret, now: Time, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{}.", now.0).as_bytes());
    context.update(body);
    let signature: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={},v1={signature}", now.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_covers_time_and_body() {
        let secret = Secret::new(b"key".to_vec());
        let signed = header(&secret, Time(1_700_000_000), b"{}");
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected = "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signed, expected);
        assert_ne!(header(&secret, Time(1_700_000_001), b"{}"), signed);
        assert_ne!(header(&secret, Time(1_700_000_000), b"{ }"), signed);
    }
}
