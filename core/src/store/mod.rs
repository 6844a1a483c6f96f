//! RocketMQ's files: commit log, consume queues, checkpoint; append, flush, dispatch, recovery, reads.
//!
//! Signatures of `Store<R>` (a cheap clone):
//!
//! ```text
//! open(runtime: &R, config: StoreConfig, arrivals: Arc<dyn Arrivals>) -> Result<(Store<R>, Recovery), OpenError>   async
//! append(&self, drafts: &[Draft<'_>]) -> Result<Appended, AppendError>          NotReady: await ready(), then again
//! append_at(&self, position: PhysicalOffset, records: &[u8]) -> Result<Appended, AppendError>
//! ready(&self)                                                                   async: the next log file exists
//! write_pending(&self) -> Result<(), StoreError>                                 before any acknowledgement
//! flushed(&self, end: PhysicalOffset) -> Result<(), StoreError>                  async: durable up to `end`
//! flush_soon(&self)                                                              nudge after a WAIT=false send
//! bounds(&self, topic: &str, queue_id: i32) -> Option<Bounds>
//! get_hot(&self, request: &GetRequest<'_>) -> Option<Got>                        None: await get()
//! get(&self, request: &GetRequest<'_>) -> Result<Got, StoreError>                async
//! record_at(&self, position: PhysicalOffset) -> Result<Option<Bytes>, StoreError>   async; parsed, CRC and position checked
//! offset_by_time(&self, topic, queue_id, time: WallMillis, Boundary) -> Result<i64, StoreError>   async
//! store_time(&self, topic, queue_id, offset: i64) -> Result<Option<WallMillis>, StoreError>       async
//! query(&self, topic, key, max: usize, begin: WallMillis, end: WallMillis) -> Result<Vec<Bytes>, StoreError>   async
//! queues(&self) -> Vec<(QueueName, Bounds)>                                      sorted
//! delete_topic(&self, topic: &str) -> Result<(), StoreError>                     async
//! info(&self) -> StoreInfo
//! close(&self) -> Result<(), StoreError>                                         async
//! json::load(disk, path) -> Result<Option<T>, JsonError>, json::save(disk, path, &value) -> Result<(), DiskError>   async
//! ```

mod config;
mod values;

pub use config::{FlushMode, StoreConfig, TransferLimit};
pub use values::{
    AppendError, Appended, Arrivals, Boundary, Bounds, GetRequest, GetStatus, Got, OpenError, Positions, QueueName,
    Recovery, StoreError, StoreInfo, TagFilter,
};
