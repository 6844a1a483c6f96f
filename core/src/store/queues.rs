//! All consume queues of a store, by topic and queue id. Pure table; the files are the queues' own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::layout::Paths;
use super::queue::Queue;
use crate::runtime::File;
use crate::sync::lock;
use crate::types::Map;

type Table<F> = Map<Arc<str>, BTreeMap<i32, Arc<Queue<F>>>>;

pub(crate) struct QueueTable<F> {
    paths: Paths,
    file_size: u64,
    table: RwLock<Table<F>>,
    /// Queues with entries that are not in files yet, or not durable, each once.
    unwritten: Mutex<Vec<Arc<Queue<F>>>>,
}

impl<F: File> QueueTable<F> {
    pub(crate) fn new(paths: Paths, file_size: u64, queues: impl IntoIterator<Item = Queue<F>>) -> QueueTable<F> {
        let mut table = Table::default();
        for queue in queues {
            let queues = table.entry(Arc::clone(&queue.topic)).or_default();
            queues.insert(queue.queue_id, Arc::new(queue));
        }
        QueueTable {
            paths,
            file_size,
            table: RwLock::new(table),
            unwritten: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn get(&self, topic: &str, queue_id: i32) -> Option<Arc<Queue<F>>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(topic)?.get(&queue_id).cloned()
    }

    pub(crate) fn get_or_create(&self, topic: &str, queue_id: i32) -> Arc<Queue<F>> {
        if let Some(queue) = self.get(topic, queue_id) {
            return queue;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let name = match table.get_key_value(topic) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(topic),
        };
        let queues = table.entry(Arc::clone(&name)).or_default();
        let queue = queues.entry(queue_id).or_insert_with(|| {
            let folder = self.paths.queue(topic, queue_id);
            Arc::new(Queue::empty(name, queue_id, folder, self.file_size))
        });
        Arc::clone(queue)
    }

    /// All queues, by topic and id.
    pub(crate) fn all(&self) -> Vec<Arc<Queue<F>>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut queues: Vec<_> = table.values().flat_map(BTreeMap::values).cloned().collect();
        queues.sort_by(|a, b| (&a.topic, a.queue_id).cmp(&(&b.topic, b.queue_id)));
        queues
    }

    pub(crate) fn has(&self, topic: &str) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.contains_key(topic)
    }

    pub(crate) fn remove(&self, topic: &str) -> Vec<Arc<Queue<F>>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(topic).unwrap_or_default().into_values().collect()
    }

    pub(crate) fn len(&self) -> usize {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.values().map(BTreeMap::len).sum()
    }

    pub(crate) fn note_unwritten(&self, queue: &Arc<Queue<F>>) {
        lock(&self.unwritten).push(Arc::clone(queue));
    }

    pub(crate) fn take_unwritten(&self) -> Vec<Arc<Queue<F>>> {
        std::mem::take(&mut *lock(&self.unwritten))
    }
}
