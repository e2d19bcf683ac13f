//! What resources are called (DAP-18 section 3.2): by a hash of the request that makes them, so that the same request
//! finds the same resource and repeating it does no harm.
//!
//! A resource that was deleted stays dead. What the same request makes from then on is another one: how often that
//! happened, the generation, is stored and goes into the hash.

use sha2::{Digest, Sha256};

use dapbox_protocol::{
    model::{AggregateShareId, TaskId},
    wire::ResourceKind,
};
use dapbox_store::Tx;
use dapbox_support::Fault;

/// Keeps these hashes apart from all others.
const LABEL: &[u8] = b"dapbox resource";

/// Who names a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// Whoever makes the request does.
    Chosen([u8; 16]),
    /// The content of the request does.
    Derived,
}

/// A request that makes a resource of a task.
#[derive(Clone, Copy, Debug)]
pub struct ResourceKey {
    /// The task.
    pub task: TaskId,
    /// The kind of resource.
    pub kind: ResourceKind,
    /// SHA-256 of the request's body.
    pub hash: [u8; 32],
}

impl ResourceKey {
    /// The request with the given body.
    pub fn new(task: TaskId, kind: ResourceKind, body: &[u8]) -> Self {
        Self { task, kind, hash: Sha256::digest(body).into() }
    }

    /// What the resource is called in a generation.
    fn id(&self, generation: u64) -> [u8; 16] {
        let mut hash = Sha256::new_with_prefix(LABEL);
        hash.update(self.task.as_bytes());
        hash.update([self.kind_number()]);
        hash.update(generation.to_be_bytes());
        hash.update(self.hash);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        id
    }

    /// The kind of resource as a number. It is stored: numbers are for ever.
    fn kind_number(&self) -> u8 {
        match self.kind {
            ResourceKind::AggregationJob => 0,
            ResourceKind::AggregateShare => 1,
            ResourceKind::CollectionJob => 2,
        }
    }

    /// What the resource is called now. Whoever makes it does so in the same write.
    pub fn current_id(&self, tx: &Tx<'_>, source: IdSource) -> Result<[u8; 16], Fault> {
        match source {
            IdSource::Chosen(id) => Ok(id),
            IdSource::Derived => Ok(self.id(tx.generation(&self.task, self.kind_number(), &self.hash)?)),
        }
    }

    /// What the resource is called once the one of now is retired.
    pub fn next_id(&self, tx: &Tx<'_>) -> Result<[u8; 16], Fault> {
        Ok(self.id(tx.generation(&self.task, self.kind_number(), &self.hash)?.saturating_add(1)))
    }

    /// What all requests have in common that make the same resource, or one after the other.
    pub fn lock_key(&self, source: IdSource) -> [u8; 16] {
        match source {
            IdSource::Chosen(id) => id,
            IdSource::Derived => self.id(0),
        }
    }

    /// The resource with this id was deleted: the same request does not find it any more. False if it does not find it
    /// anyway, because the id was chosen or belongs to an earlier generation.
    pub fn invalidate(&self, tx: &mut Tx<'_>, id: &[u8; 16]) -> Result<bool, Fault> {
        let is_found = self.current_id(tx, IdSource::Derived)? == *id;
        if is_found {
            tx.raise_generation(&self.task, self.kind_number(), &self.hash)?;
        }
        Ok(is_found)
    }

    /// What an aggregate share is called. There is one generation: a batch that was collected stays collected, whatever
    /// becomes of the share.
    pub fn share_id(&self) -> AggregateShareId {
        AggregateShareId::new(self.id(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::Revision;
    use dapbox_store::{Options, Store};
    use dapbox_support::Point;

    #[test]
    fn id_depends_on_every_input() {
        let content = ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request");
        let others = [
            ResourceKey { task: TaskId::new([2; 32]), ..content },
            ResourceKey { kind: ResourceKind::CollectionJob, ..content },
            ResourceKey { kind: ResourceKind::AggregateShare, ..content },
            ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request "),
        ];
        let mut ids = vec![content.id(0), content.id(1), content.id(u64::MAX)];
        ids.extend(others.map(|other| other.id(0)));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 7);
    }

    #[test]
    fn ids_are_stable_across_releases() {
        // SHA-256 of "dapbox resource", 32 times 1, 0, 8 times 0, SHA-256 of "request".
        let content = ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request");
        assert_eq!(content.id(0), [28, 219, 20, 254, 255, 189, 201, 120, 9, 98, 64, 119, 117, 60, 175, 191]);
    }

    #[tokio::test]
    async fn invalidated_id_is_never_derived_again() {
        let dir = tempfile::tempdir().unwrap();
        let task = crate::testing::task(Revision::Dap18);
        let content = ResourceKey::new(task.public.id, ResourceKind::CollectionJob, b"next batch, please");
        let other = ResourceKey::new(task.public.id, ResourceKind::AggregationJob, b"next batch, please");
        let name = move |tx: &mut Tx<'_>| {
            Ok((content.current_id(tx, IdSource::Derived)?, other.current_id(tx, IdSource::Derived)?))
        };
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let first = store.write(Point::Test, move |tx| tx.add_task(task).and_then(|()| name(tx))).await.unwrap();
        assert_eq!(first.0, store.write(Point::Test, name).await.unwrap().0);
        // Deleting it twice, or what has another name, is deleting it once.
        let invalidate = move |tx: &mut Tx<'_>| {
            content.invalidate(tx, &[7; 16])?;
            content.invalidate(tx, &first.0)?;
            content.invalidate(tx, &first.0)?;
            name(tx)
        };
        let second = store.write(Point::Test, invalidate).await.unwrap();
        assert_eq!(second, (content.id(1), other.id(0)));
        assert_eq!(content.lock_key(IdSource::Derived), first.0);
        store.close().await;
        let store = Store::open(dir.path(), Options::default()).unwrap();
        assert_eq!(store.write(Point::Test, name).await.unwrap(), second);
        let chosen = move |tx: &mut Tx<'_>| content.current_id(tx, IdSource::Chosen([9; 16]));
        assert_eq!(store.write(Point::Test, chosen).await.unwrap(), [9; 16]);
    }
}
