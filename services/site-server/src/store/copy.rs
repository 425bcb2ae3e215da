//! Rows for `COPY … FROM STDIN (FORMAT binary)`, put together in one buffer: the cheapest way
//! into a table.

use bytes::{BufMut, Bytes, BytesMut};
use deadpool_postgres::Transaction;
use futures::SinkExt;
use jiff::Timestamp;

use crate::app::Error;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// PostgreSQL counts microseconds from 2000-01-01.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
/// Bytes sent at a time.
const CHUNK: usize = 256 * 1024;
const INT2: u32 = 21;
const INT4: u32 = 23;

/// Rows on their way into a table.
#[derive(Debug)]
pub(crate) struct Copy {
    buffer: BytesMut,
    chunks: Vec<Bytes>,
}

impl Copy {
    pub(crate) fn new() -> Self {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        buffer.put_slice(HEADER);
        Self {
            buffer,
            chunks: Vec::new(),
        }
    }

    /// Begins a row of so many columns, which follow in the order of the statement.
    pub(crate) fn row(&mut self, columns: i16) -> &mut Self {
        if self.buffer.len() >= CHUNK {
            self.chunks.push(self.buffer.split().freeze());
            self.buffer.reserve(CHUNK);
        }
        self.buffer.put_i16(columns);
        self
    }

    /// An `integer`.
    pub(crate) fn int4(&mut self, value: i32) -> &mut Self {
        self.buffer.put_i32(4);
        self.buffer.put_i32(value);
        self
    }

    /// A `bigint`.
    pub(crate) fn int8(&mut self, value: i64) -> &mut Self {
        self.buffer.put_i32(8);
        self.buffer.put_i64(value);
        self
    }

    /// A `timestamptz`.
    pub(crate) fn timestamp(&mut self, value: Timestamp) -> &mut Self {
        self.int8(value.as_microsecond() - EPOCH_MICROSECONDS)
    }

    /// An `integer[]`.
    pub(crate) fn int4s(&mut self, values: &[i32]) -> &mut Self {
        self.array(values, INT4, 4, |buffer, value| buffer.put_i32(*value))
    }

    /// A `smallint[]`.
    pub(crate) fn int2s(&mut self, values: &[i16]) -> &mut Self {
        self.array(values, INT2, 2, |buffer, value| buffer.put_i16(*value))
    }

    fn array<T>(
        &mut self,
        values: &[T],
        element: u32,
        width: i32,
        put: impl Fn(&mut BytesMut, &T),
    ) -> &mut Self {
        // Lengths of reports are bounded far below: MAX_UPDATES.
        let count = i32::try_from(values.len()).unwrap_or(0);
        let buffer = &mut self.buffer;
        if count == 0 {
            buffer.put_i32(12);
            buffer.put_i32(0);
            buffer.put_i32(0);
            buffer.put_u32(element);
            return self;
        }
        buffer.put_i32(20 + count * (4 + width));
        for head in [1, 0] {
            buffer.put_i32(head);
        }
        buffer.put_u32(element);
        buffer.put_i32(count);
        buffer.put_i32(1);
        for value in values {
            buffer.put_i32(width);
            put(buffer, value);
        }
        self
    }

    /// Sends all of it; `sql` is the COPY statement.
    pub(crate) async fn send(mut self, tx: &Transaction<'_>, sql: &str) -> Result<u64, Error> {
        self.buffer.put_i16(-1);
        self.chunks.push(self.buffer.freeze());
        let statement = tx.prepare_cached(sql).await?;
        let sink = tx.copy_in(&statement).await?;
        let mut sink = std::pin::pin!(sink);
        for chunk in self.chunks {
            sink.feed(chunk).await?;
        }
        Ok(sink.finish().await?)
    }
}
