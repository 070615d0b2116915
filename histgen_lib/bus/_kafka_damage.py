"""Damage in a Kafka broker's answer, delivered as a record, so that reading goes on behind it.

kafka-python 3.0.12 raises in the middle of an answer, and would retry the rest of it forever. Here the bytes
that cannot be read become the value of one record, with the reason.
"""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

from kafka.codec import snappy_decode
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from histgen_lib.bus._port import Delivery, damaged, delivery
from histgen_lib.errors import InvalidInputError

_MOST_UNPACKED = 64 << 20
"""Producers pack a few MiB at most; a batch that unpacks to more is an attack on our memory."""
_OVERHEAD, _MAGIC = MemoryRecords.LOG_OVERHEAD, b"\x02"
_SLACK = 1 << 20
"""More records may have arrived since the broker looked where its log ends, but never so many."""
_UNREADABLE = Exception
"""kafka-python and its codecs raise anything: IndexError, struct.error, AssertionError, EOFError."""


class Damage(bytes):
    """The value of a record that cannot be read: its bytes, `why`, and how many `offsets` it covers."""

    why: str
    offsets: int

    @classmethod
    def record(cls, first: int, beyond: int, why: str, data: bytes = b"") -> DefaultRecord:
        """Make the record that stands for the offsets from `first` up to but not including `beyond`."""
        damage = cls(data)
        damage.why, damage.offsets = why, beyond - first
        return DefaultRecord(len(data), first, -1, 0, None, damage, [])


def read(record: Any) -> Delivery:
    """Read the event in a record as kafka-python gives it."""
    place, value = (record.topic, record.partition, record.offset), record.value
    if isinstance(value, Damage):
        return Delivery(
            *place, bytes(value), unreadable=damaged(value.why, value.offsets), offsets=value.offsets
        )
    headers: dict[str, str] = {}
    for name, content in record.headers:
        if content is None:
            continue
        text = content.decode(errors="replace")
        if name.startswith("ce_") and headers.get(name, text) != text:
            return Delivery(*place, value or b"", unreadable=_AMBIGUOUS)
        headers[name] = text
    return delivery(*place, headers, value or b"")


class PassingRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """One partition's part of an answer, with damage as records.

    `floor`: the first offset to deliver; the answer may begin before it. `end`: the first offset that the
    broker does not have yet. `lost`: the offset from which nothing can be had up to the floor. `whole`: the
    answer reaches up to `end`.
    """

    def __init__(
        self,
        *args: Any,
        floor: int,
        end: int,
        lost: int | None = None,
        whole: bool = False,
        **more: Any,
    ) -> None:
        self._end, self._whole, self._gap = end, whole, None if lost is None else (lost, floor)
        super().__init__(*args, **more)
        self.fetch_offset = floor if lost is None else lost

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
        batches = _Batches(
            records._buffer, self.next_fetch_offset, self._end, gap=self._gap, whole=self._whole
        )
        try:
            yield from self._read(batches, *deserializers)
        except _UNREADABLE as error:
            first = self.next_fetch_offset
            yield from self._read(
                _Substitute(Damage.record(first, first + 1, type(error).__name__)), None, None
            )

    def _read(self, batches: Any, *deserializers: Any) -> Iterator[Any]:
        for record in super()._unpack_records(self.topic_partition, batches, *deserializers):
            if isinstance(record.value, Damage):
                self.next_fetch_offset = record.offset + record.value.offsets
            yield record


class _Substitute:
    """A record of ours in place of a batch, or of all: kafka-python reads it as one of the oldest format."""

    magic = 0

    def __init__(self, record: DefaultRecord) -> None:
        self._records = [record]

    def next_batch(self) -> _Substitute | None:
        return self if self._records else None

    def validate_crc(self) -> bool:
        return True

    def __iter__(self) -> Iterator[DefaultRecord]:
        while self._records:
            yield self._records.pop()


class _Batches:
    """Finds the batches in an answer. Between two sound ones there may be anything."""

    def __init__(
        self, data: bytes, first: int, end: int, *, gap: tuple[int, int] | None, whole: bool
    ) -> None:
        self._data, self._at, self._first, self._end = memoryview(data), 0, first, end
        self._gap, self._whole = gap, whole

    def next_batch(self) -> Any:
        """Return the next batch; a damaged record if it cannot be read; None at the end of the answer."""
        if self._gap:
            gap, self._gap = self._gap, None
            return _Substitute(Damage.record(*gap, "the broker does not find it"))
        batch = self._sound(self._at)
        if batch is None:
            return self._damaged()
        self._at += batch.size_in_bytes
        self._first = max(self._first, _beyond(batch))
        return batch

    def _damaged(self) -> Any:
        first, behind = self._first, self._behind()
        if behind is not None:
            stop, self._first = behind
        elif self._size(self._at) is not None:
            stop, self._first = len(self._data), self._claimed(self._at)
        elif self._whole and self._at < len(self._data) and first < self._end:
            stop, self._first = len(self._data), self._end
        else:
            return None  # the answer ends within a batch, or there
        data, self._at = bytes(self._data[self._at : stop]), stop
        if self._first == first:
            return self.next_batch()  # it covers no offset that we need
        return _Substitute(Damage.record(first, self._first, "its checksum or its length is wrong", data))

    def _behind(self) -> tuple[int, int] | None:
        """Find the next sound batch: where it begins, and its first offset."""
        data, at = bytes(self._data), self._at + 1
        while (found := data.find(_MAGIC, at + MemoryRecords.MAGIC_OFFSET)) >= 0:
            at = found - MemoryRecords.MAGIC_OFFSET
            if batch := self._sound(at):
                return at, batch.base_offset
            at += 1
        return None

    def _sound(self, at: int) -> Any:
        """Return the batch that begins at `at`; None if it is damaged or incomplete."""
        size = self._size(at)
        if size is None:
            return None
        base = struct.unpack_from(">q", self._data, at)[0]
        if not 0 <= base < self._end + _SLACK or (at != self._at and base < self._first):
            return None
        try:
            batch = MemoryRecords(self._data[at : at + size]).next_batch()
            sound = batch.validate_crc() and self._first < _beyond(batch)
        except _UNREADABLE:
            return None
        if not sound:
            return None
        return batch if batch.magic < 2 else PassingBatch(batch._buffer)

    def _size(self, at: int) -> int | None:
        """Return the size that a batch states, in bytes; None if it is incomplete."""
        if len(self._data) - at < _OVERHEAD:
            return None
        size = _OVERHEAD + int(struct.unpack_from(">i", self._data, at + MemoryRecords.LENGTH_OFFSET)[0])
        return size if _OVERHEAD < size <= len(self._data) - at else None

    def _claimed(self, at: int) -> int:
        """Return the offset behind a damaged batch as it states itself, if that is plausible."""
        try:
            beyond = int(DefaultRecordBatch(self._data[at:]).next_offset)
        except struct.error:
            return self._first + 1
        return beyond if self._first < beyond <= self._end else self._first + 1


def _beyond(batch: Any) -> int:
    return int(batch.next_offset if batch.magic >= 2 else batch.base_offset + 1)


class PassingBatch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch whose checksum is right. A record in it that cannot be read becomes `Damage`."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def validate_crc(self) -> bool:
        """Return True: it was checked before."""
        return True

    def __iter__(self) -> Iterator[DefaultRecord]:
        try:
            self._maybe_uncompress()
        except _UNREADABLE as error:
            yield self._ruin(self.base_offset, f"it cannot be unpacked: {type(error).__name__}")
            return
        offset = self.base_offset
        for _ in range(self._num_records):
            at = self._pos
            try:
                record = self._read_msg()
            except _UNREADABLE as error:
                offset, stop = self._outline(at, offset)
                why = f"it does not have the form of a record: {type(error).__name__}"
                if stop is None:
                    yield self._ruin(offset, why)
                    return
                self._pos = stop
                record = Damage.record(offset, offset + 1, why, bytes(self._buffer[at:stop]))
            yield record
            offset = record.offset + 1

    def _ruin(self, first: int, why: str) -> DefaultRecord:
        return Damage.record(first, max(first + 1, self.next_offset), why, bytes(self._buffer))

    def _outline(self, at: int, at_least: int) -> tuple[int, int | None]:
        """Return the offset of a record that cannot be read, and where it ends (None if unknown)."""
        try:
            length, start = decode_varint(self._buffer, at)
            _, pos = decode_varint(self._buffer, start)
            _, pos = decode_varint(self._buffer, pos)
            delta, _ = decode_varint(self._buffer, pos)
        except _UNREADABLE:
            return at_least, None
        offset = self.base_offset + delta
        if not at_least <= offset <= self.last_offset or not 0 < length <= len(self._buffer) - start:
            return at_least, None
        return offset, start + length

    def _maybe_uncompress(self) -> None:
        if self.compression_type != self.CODEC_NONE and not self._decompressed:
            self._assert_has_codec(self.compression_type)
            packed = bytes(memoryview(self._buffer)[self._pos :])
            self._buffer, self._pos = bytearray(_UNPACK[self.compression_type](packed)), 0
        self._decompressed = True


def _bounded(stream: Any) -> bytes:
    data = bytearray()
    while piece := stream.read(1 << 20):
        data += piece
        if len(data) > _MOST_UNPACKED:
            raise OverflowError
    return bytes(data)


def _gunzip(data: bytes) -> bytes:
    return _bounded(gzip.GzipFile(fileobj=io.BytesIO(data)))


def _unlz4(data: bytes) -> bytes:
    import lz4.frame  # type: ignore[import-untyped]

    return _bounded(lz4.frame.LZ4FrameFile(io.BytesIO(data)))


def _unzstd(data: bytes) -> bytes:
    import zstandard

    return _bounded(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True))


_UNPACK: dict[int, Callable[[bytes], bytes]] = {
    DefaultRecordBatch.CODEC_GZIP: _gunzip,
    DefaultRecordBatch.CODEC_SNAPPY: snappy_decode,  # grows about twentyfold at most
    DefaultRecordBatch.CODEC_LZ4: _unlz4,
    DefaultRecordBatch.CODEC_ZSTD: _unzstd,
}


_AMBIGUOUS = InvalidInputError(
    "event-unreadable",
    "An event cannot be used: one of its ce_ headers occurs twice, with two different values.",
    hint="Send the event again, in the form that docs/events.md describes.",
)
