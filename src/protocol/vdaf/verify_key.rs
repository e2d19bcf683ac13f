//! Derivation of verification keys (DAP-18, "VDAF Verification Key Requirements").

use hkdf::Hkdf;
use sha2::Sha256;

use crate::model::{Secret, TaskId};

/// Derives the verification key of a task from a secret that leader and helper share.
///
/// The key depends on the task id and is fixed before the first report. It therefore cannot be crafted to leak
/// measurements. Derivation uses HKDF (RFC 5869); the draft does not specify the hash, dapbox uses SHA-256.
///
/// # Panics
///
/// If `length` exceeds the 8160 bytes that HKDF can produce. [`Preparer`](super::Preparer) requires 16 or 32.
pub fn derive_verify_key(seed: &Secret, task: &TaskId, length: usize) -> Secret {
    let mut key = vec![0; length];
    let hkdf = Hkdf::<Sha256>::new(Some(b"verify_key"), seed.expose());
    hkdf.expand(task.as_bytes(), &mut key).expect("verification keys are short");
    Secret::new(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `hmac` module by RFC 5869, 40 bytes long.
    const EXPECTED: [u8; 40] = [
        0x55, 0x1c, 0xc9, 0x88, 0x5a, 0x5c, 0xb9, 0xef, 0x91, 0x9a, 0x8e, 0x23, 0x67, 0x76, 0x15, 0x7a, 0x24, 0x91,
        0xad, 0x99, 0x44, 0x46, 0x0c, 0x66, 0x0e, 0x45, 0xa4, 0x36, 0x5f, 0xfd, 0x81, 0x5b, 0x51, 0xf1, 0x15, 0x74,
        0xcd, 0xe9, 0x83, 0x5b,
    ];

    #[test]
    fn matches_another_implementation() {
        let seed = Secret::new((0..32).collect());
        for length in [16, 32, 40] {
            let key = derive_verify_key(&seed, &TaskId::new([7; 32]), length);
            assert_eq!(key.expose(), &EXPECTED[..length]);
        }
    }

    #[test]
    fn key_depends_on_task_and_seed() {
        let (seed, task) = (Secret::new(vec![1; 16]), TaskId::new([7; 32]));
        let key = derive_verify_key(&seed, &task, 32);
        assert_ne!(derive_verify_key(&seed, &TaskId::new([8; 32]), 32), key);
        assert_ne!(derive_verify_key(&Secret::new(vec![2; 16]), &task, 32), key);
    }
}
