//! Collector credential files of Divvi Up (`divviup collector-credential generate`).

mod stated;

use std::path::Path;

use serde::Deserialize;

use super::{Failure, input::read_limited};
use crate::{
    hpke::{Keypair, Suite},
    model::{HpkeConfig, Secret},
    wire::parse_bytes,
};

pub use stated::CredentialArgs;

/// Maximum size of the file, in bytes. Typical files have a few hundred.
const MAX_BYTES: u64 = 64 << 10;

/// The secrets of a collector.
pub struct Credential {
    /// The token that it presents to the leader.
    pub token: Secret,
    /// The key that decrypts aggregate shares.
    pub keypair: Keypair,
}

/// The JSON of the file. Divvi Up calls it opaque and may add members, so unknown ones are ignored.
#[derive(Deserialize)]
struct File {
    id: u8,
    kem: String,
    kdf: String,
    aead: String,
    public_key: String,
    private_key: String,
    token: String,
}

impl Credential {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = read_limited(path, MAX_BYTES)?;
        Self::parse(&text).map_err(|why| Failure::new(why).context(path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        // Errors of serde may contain values, which may be secrets.
        let file: File = serde_json::from_str(text).map_err(|error| {
            format!(
                "not a collector credential of Divvi Up: expected a JSON object with id, kem, kdf, aead, public_key, \
                 private_key and token (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        let suite = Suite::from_names(&file.kem, &file.kdf, &file.aead).map_err(|error| error.to_string())?;
        let [public, private] = suite.key_lengths().ok_or_else(|| format!("unsupported HPKE cipher suite {suite}"))?;
        let public_key = parse_bytes::parse(&file.public_key, &[public]).map_err(|why| format!("public_key: {why}"))?;
        let private_key =
            parse_bytes::parse(&file.private_key, &[private]).map_err(|why| format!("private_key: {why}"))?;
        let Suite { kem_id, kdf_id, aead_id } = suite;
        let config = HpkeConfig { id: file.id, kem_id, kdf_id, aead_id, public_key };
        let keypair = Keypair::from_parts(config, Secret::new(private_key)).map_err(|error| error.to_string())?;
        let token = Secret::token(&file.token).map_err(|why| format!("token: {why}"))?;
        Ok(Self { token, keypair })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(keypair: &Keypair) -> Value {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        json!({
            "aead": "AesGcm128",
            "id": keypair.config().id,
            "kdf": "Sha256",
            "kem": "X25519HkdfSha256",
            "private_key": URL_SAFE_NO_PAD.encode(keypair.private_key().expose()),
            "public_key": URL_SAFE_NO_PAD.encode(&keypair.config().public_key),
            "token": "Krx-CLfdWo1ULAfsxhr0rA",
        })
    }

    #[test]
    fn reads_credential_like_janus() {
        let keypair = Keypair::generate(66, Suite::DEFAULT).unwrap();
        let text = written(&keypair).to_string();
        let ours = Credential::parse(&text).unwrap();
        let theirs: janus_collector::PrivateCollectorCredential = serde_json::from_str(&text).unwrap();
        assert_eq!(ours.token.expose_text(), Some(theirs.authentication_token().as_str()));
        let theirs = theirs.hpke_keypair();
        assert_eq!(ours.keypair.private_key().expose(), theirs.private_key().as_ref());
        let (ours, theirs) = (ours.keypair.config(), theirs.config());
        assert_eq!(ours.public_key, theirs.public_key().as_ref());
        assert_eq!(
            (ours.id, ours.kem_id, ours.kdf_id, ours.aead_id),
            (
                u8::from(*theirs.id()),
                u16::from(*theirs.kem_id()),
                u16::from(*theirs.kdf_id()),
                u16::from(*theirs.aead_id())
            )
        );
    }

    #[test]
    fn reads_other_spellings_and_suites() {
        let keypair = Keypair::generate(66, Suite::DEFAULT).unwrap();
        let mut file = written(&keypair);
        for (name, value) in [("kdf", "HkdfSha256"), ("aead", "Aes128Gcm"), ("kem", "x25519"), ("name", "new")] {
            file[name] = json!(value);
        }
        assert_eq!(Credential::parse(&file.to_string()).unwrap().keypair.config(), keypair.config());

        let suite = Suite::from_names("P256HkdfSha256", "Sha512", "ChaCha20Poly1305").unwrap();
        let keypair = Keypair::generate(1, suite).unwrap();
        let mut file = written(&keypair);
        for (name, value) in [("kem", "DhP256HkdfSha256"), ("kdf", "Sha512"), ("aead", "ChaCha20Poly1305")] {
            file[name] = json!(value);
        }
        assert_eq!(Credential::parse(&file.to_string()).unwrap().keypair.config(), keypair.config());
    }

    #[test]
    fn names_invalid_member_without_secrets() {
        let keypair = Keypair::generate(66, Suite::DEFAULT).unwrap();
        let good = written(&keypair);
        let other = written(&Keypair::generate(66, Suite::DEFAULT).unwrap());
        let private_key = good["private_key"].as_str().unwrap().to_owned();
        for (name, value, says) in [
            ("kem", json!("X448HkdfSha512"), "unknown HPKE KEM"),
            ("kdf", json!("Shake128"), "unknown HPKE KDF"),
            ("public_key", json!("AAAA"), "public_key"),
            ("private_key", json!(private_key[1..].to_owned()), "private_key: expected 32 bytes"),
            ("private_key", other["private_key"].clone(), "does not belong to the private key"),
            ("public_key", other["public_key"].clone(), "does not belong to the private key"),
            ("token", json!("two words"), "token"),
            ("id", json!(private_key), "not a collector credential"),
            ("id", json!(256), "not a collector credential"),
        ] {
            let mut file = good.clone();
            file[name] = value;
            let Err(error) = Credential::parse(&file.to_string()) else { panic!("{name} was taken") };
            assert!(error.contains(says) && !error.contains(&private_key[1..]), "{name}: {error}");
        }
        assert!(Credential::parse("[]").is_err() && Credential::parse("").is_err());
    }
}
