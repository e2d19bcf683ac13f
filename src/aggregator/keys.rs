//! Our HPKE key pairs: made at first start, kept, and looked up by configuration id.

use std::{collections::BTreeMap, sync::Arc};

use rand::Rng;

use crate::{
    hpke::{Keypair, Suite},
    model::{Fault, HpkeConfig, Time},
    store::{KeyRecord, Tx},
};

/// All key pairs that reports may be sealed to.
#[derive(Default)]
pub struct KeyRing {
    pairs: BTreeMap<u8, Arc<Keypair>>,
}

impl KeyRing {
    /// Reads the stored key pairs.
    pub fn load<'a>(records: impl IntoIterator<Item = &'a KeyRecord>) -> Result<Self, Fault> {
        let mut pairs = BTreeMap::new();
        for record in records {
            let pair = Keypair::from_parts(record.config.clone(), record.private_key.clone())
                .map_err(|error| Fault::while_doing("reading an HPKE key pair from the store", error))?;
            pairs.insert(record.config.id, Arc::new(pair));
        }
        Ok(Self { pairs })
    }

    /// The key pair with the given configuration id.
    pub fn get(&self, id: u8) -> Option<&Keypair> {
        self.pairs.get(&id).map(Arc::as_ref)
    }

    /// What clients are told, in order of preference (DAP-09 section 4.4.1).
    pub fn configs(&self) -> Vec<HpkeConfig> {
        self.pairs.values().map(|pair| pair.config().clone()).collect()
    }
}

/// Makes the first key pair if there is none yet.
///
/// Its id is random: an aggregator that was set up anew should not answer for its predecessor's key id.
pub fn ensure_first(tx: &mut Tx<'_>, suite: Suite, now: Time) -> Result<(), Fault> {
    if !tx.keys().is_empty() {
        return Ok(());
    }
    let pair = Keypair::generate(rand::rng().random(), suite)
        .map_err(|error| Fault::while_doing("making the first HPKE key pair", error))?;
    tx.put_key(KeyRecord { config: pair.config().clone(), private_key: pair.private_key().clone(), created: now })
}
