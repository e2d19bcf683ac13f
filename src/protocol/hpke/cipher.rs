//! HPKE ciphers (RFC 9180 section 7.3), implemented with aws-lc for the `hpke` crate.
//!
//! The ciphers of the `hpke` crate are several times slower for long messages. A leader's share of a long vector has
//! 165 kB.

use std::{marker::PhantomData, sync::Arc};

use aead::{
    AeadCore, AeadInOut, Error, Key, KeyInit, KeySizeUser, Nonce, Tag, TagPosition,
    array::{
        ArraySize,
        typenum::{U12, U16, U32},
    },
    inout::InOutBuf,
};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use hpke::aead::Aead;

/// An AEAD with its HPKE identifier and its aws-lc algorithm.
pub(super) trait Cipher: Clone + Send + Sync {
    /// Length of the key.
    type KeySize: ArraySize;

    /// Identifier in RFC 9180 section 7.3.
    const ID: u16;

    /// The aws-lc algorithm.
    const ALGORITHM: &'static Algorithm;
}

/// AES-128-GCM.
#[derive(Clone)]
pub(super) struct Aes128;

impl Cipher for Aes128 {
    type KeySize = U16;

    const ID: u16 = super::AES128;
    const ALGORITHM: &'static Algorithm = &AES_128_GCM;
}

/// AES-256-GCM.
#[derive(Clone)]
pub(super) struct Aes256;

impl Cipher for Aes256 {
    type KeySize = U32;

    const ID: u16 = super::AES256;
    const ALGORITHM: &'static Algorithm = &AES_256_GCM;
}

/// ChaCha20Poly1305.
#[derive(Clone)]
pub(super) struct ChaCha20;

impl Cipher for ChaCha20 {
    type KeySize = U32;

    const ID: u16 = super::CHACHA20;
    const ALGORITHM: &'static Algorithm = &CHACHA20_POLY1305;
}

/// AES-128-GCM for the `hpke` crate.
pub(super) type Aes128Gcm = KeyedCipher<Aes128>;
/// AES-256-GCM for the `hpke` crate.
pub(super) type Aes256Gcm = KeyedCipher<Aes256>;
/// ChaCha20Poly1305 for the `hpke` crate.
pub(super) type ChaCha20Poly1305 = KeyedCipher<ChaCha20>;

/// A cipher with its key. aws-lc wipes the key on drop; the `hpke` crate chooses the nonces.
#[derive(Clone)]
pub(super) struct KeyedCipher<C>(Arc<LessSafeKey>, PhantomData<C>);

impl<C: Cipher> Aead for KeyedCipher<C> {
    type AeadImpl = Self;

    const AEAD_ID: u16 = C::ID;
}

impl<C: Cipher> KeySizeUser for KeyedCipher<C> {
    type KeySize = C::KeySize;
}

impl<C: Cipher> KeyInit for KeyedCipher<C> {
    fn new(key: &Key<Self>) -> Self {
        let key = UnboundKey::new(C::ALGORITHM, key).expect("the type of a key has its length");
        Self(Arc::new(LessSafeKey::new(key)), PhantomData)
    }
}

impl<C: Cipher> AeadCore for KeyedCipher<C> {
    type NonceSize = U12;
    type TagSize = U16;

    const TAG_POSITION: TagPosition = TagPosition::Postfix;
}

impl<C: Cipher> AeadInOut for KeyedCipher<C> {
    fn encrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
    ) -> Result<Tag<Self>, Error> {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key((*nonce).into());
        let buffer = buffer.into_out_with_copied_in();
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated_data), buffer).map_err(|_| Error)?;
        Tag::<Self>::try_from(tag.as_ref()).map_err(|_| Error)
    }

    fn decrypt_inout_detached(
        &self,
        nonce: &Nonce<Self>,
        associated_data: &[u8],
        buffer: InOutBuf<'_, '_, u8>,
        tag: &Tag<Self>,
    ) -> Result<(), Error> {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key((*nonce).into());
        let buffer = buffer.into_out_with_copied_in();
        let opened = self.0.open_in_place_separate_tag(nonce, Aad::from(associated_data), tag, buffer);
        opened.map(|_| ()).map_err(|_| Error)
    }
}
