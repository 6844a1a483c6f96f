//! Looking messages up by key and by place.

use super::{Answer, Handlers, Rejected, answer};
use crate::protocol::Command;
use crate::protocol::code::response;
use crate::protocol::header::{QueryMessageHeader, QueryMessageResponseHeader, ViewMessageHeader};
use crate::runtime::Runtime;

impl<R: Runtime> Handlers<R> {
    /// Code 33.
    pub(in crate::broker) async fn view_message(&self, command: &Command) -> Answer {
        let result = async {
            let header = ViewMessageHeader::read(&command.ext)?;
            let record = self.operations.record(header.offset).await?;
            Ok(Answer::Reply(Command::success(command).with_body(record)))
        };
        answer(command, result.await)
    }

    /// Code 12.
    pub(in crate::broker) async fn query_message(&self, command: &Command) -> Answer {
        let result = self.try_query_message(command).await;
        answer(command, result)
    }

    async fn try_query_message(&self, command: &Command) -> Result<Answer, Rejected> {
        let header = QueryMessageHeader::read(&command.ext)?;
        let found = self
            .operations
            .query(
                &header.topic,
                &header.key,
                usize::try_from(header.message_count_max).unwrap_or(0),
                header.begin_timestamp,
                header.end_timestamp,
            )
            .await?;
        let info = self.operations.store.info();
        let fields = QueryMessageResponseHeader {
            index_last_update_timestamp: info.last_store_time.0,
            index_last_update_physical_offset: info.confirmed as i64,
        };
        let code = if found.is_empty() {
            response::QUERY_NOT_FOUND
        } else {
            response::SUCCESS
        };
        let mut reply = Command::reply(command, code);
        if found.is_empty() {
            reply = reply.with_remark("can not find message, maybe time range not correct");
        }
        fields.write(&mut reply.ext);
        Ok(Answer::Records(reply, found))
    }
}
