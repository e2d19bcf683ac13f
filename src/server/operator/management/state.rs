//! What the management API keeps in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use dapbox_aggregator::{config::Config, provision};
use dapbox_protocol::model::{Secret, Time, TokenHash};
use dapbox_store::{Store, Tx};
use dapbox_support::{Fault, Point};

/// Maximum number of unknown members that are logged until the next start.
const MAX_IGNORED_MEMBERS: usize = 100;
/// Maximum length of the logged name of an unknown member.
const MAX_MEMBER_CHARS: usize = 200;

/// The state of the API in memory.
pub struct Management {
    /// The secret that tokens of tasks are derived from, if the API is enabled.
    seed: Option<Secret>,
    /// When each API token was last used.
    uses: Mutex<HashMap<TokenHash, Time>>,
    /// The unknown members that were logged.
    ignored: Mutex<HashSet<String>>,
}

impl Management {
    /// Loads the secret for tokens of tasks, or creates it if the API is enabled.
    pub async fn begin(config: &Config, store: &Store) -> Result<Self, Fault> {
        let stored = store.read(|view| Ok(view.token_seed().cloned()))?;
        let seed = match stored {
            Some(seed) => Some(seed),
            None if !config.management.is_on() => None,
            None => {
                let make = |tx: &mut Tx<'_>| provision::init_seed(tx, provision::new_seed());
                Some(store.write(Point::ManagementSeed, make).await?)
            }
        };
        Ok(Self { seed, uses: Mutex::default(), ignored: Mutex::default() })
    }

    /// The secret that tokens of tasks are derived from.
    pub fn seed(&self) -> Result<&Secret, Fault> {
        self.seed.as_ref().ok_or_else(|| Fault::new("the management API was disabled at the start"))
    }

    /// Records the use of a token.
    pub fn note(&self, hash: TokenHash, now: Time) {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, now);
    }

    /// Logs an unknown member of a request, once per name. Returns whether it was logged.
    pub fn ignore(&self, member: &str) -> bool {
        let member: String = member.chars().take(MAX_MEMBER_CHARS).collect();
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = ignored.len() < MAX_IGNORED_MEMBERS && ignored.insert(member.clone());
        if is_new {
            tracing::warn!(member, "management API member ignored");
        }
        is_new
    }

    /// When each token was last used.
    pub fn uses(&self) -> HashMap<TokenHash, Time> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets a revoked token.
    pub fn forget(&self, hash: &TokenHash) {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_unknown_member_once_and_few_names() {
        let management = Management { seed: None, uses: Mutex::default(), ignored: Mutex::default() };
        assert!(management.ignore("vdaf.note"));
        assert!(!management.ignore("vdaf.note"), "the same name again");
        let logged = (0..2 * MAX_IGNORED_MEMBERS).filter(|n| management.ignore(&n.to_string())).count();
        assert_eq!(logged, MAX_IGNORED_MEMBERS - 1);
    }
}
