//! openraft's own suite, against the real store.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::consensus::log_store::LogStore;
use crate::consensus::snapshot::Directory;
use crate::consensus::state_machine::Machine;
use crate::consensus::types::TypeConfig;
use crate::domain::PeerId;
use crate::domain::level::NEWEST;
use crate::storage::OpenOptions;
use crate::tasks::Tasks;

impl From<u64> for PeerId {
    fn from(number: u64) -> Self {
        let mut id = [0; 32];
        id[24..].copy_from_slice(&number.to_be_bytes());
        Self(id)
    }
}

struct Builder;

/// Ends the store's tasks, then removes its directory.
struct Guard(#[allow(dead_code)] tempfile::TempDir, Tasks);

impl Drop for Guard {
    fn drop(&mut self) {
        self.1.cancel();
    }
}

impl StoreBuilder<TypeConfig, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let store = OpenOptions::new().ballast_bytes(0).open(&dir.path().join("store"), PeerId([1; 32])).unwrap();
        let log = LogStore::open(&store, &tasks).unwrap();
        let machine = Machine::open(
            Directory::open(&dir.path().join("snapshots")).unwrap(),
            &store,
            NEWEST,
            Default::default(),
            &tasks,
        )
        .unwrap();
        Ok((Guard(dir, tasks), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_conforms() {
    Suite::test_all(Builder).await.unwrap();
}
