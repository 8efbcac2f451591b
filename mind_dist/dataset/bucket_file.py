"""One bucket of a prepared dataset, read a row group at a time: what is in memory does not grow with the log."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc
from pyarrow import parquet as pq

from mind_dist.errors import DatasetError
from mind_dist.storage import Directory

EVENTS_PER_BLOCK = 1 << 20
"""Events of a row group, about: some 20 MB in memory."""


def rows_per_block(num_users: int, num_events: int) -> int:
    """Return how many users' sequences go into a row group."""
    return max(1, EVENTS_PER_BLOCK * num_users // max(1, num_events))


class BucketFile:
    """The sequences of a bucket. A block is a row group of its file: some of its users, whole.

    Args:
        directory: The dataset's.
        name: Of the file.

    Raises:
        DatasetError: It is missing or torn; methods raise it, too.
    """

    def __init__(self, directory: Directory, name: str) -> None:
        self._uri = (directory / name).uri
        try:
            self._stream = directory.filesystem.open_input_file((directory / name).path)
            self._file = pq.ParquetFile(self._stream, pre_buffer=True)
        except (OSError, pa.ArrowException) as error:
            raise self._torn(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_blocks(self) -> int:
        """Row groups, and one without users where there are none."""
        return max(1, int(self._file.num_row_groups))

    def lengths(self, block: int) -> NDArray[np.int64]:
        """Return how many behaviors each user of a block has."""
        return np.asarray(pc.list_value_length(self.read(block, ["item_ids"])["item_ids"]), dtype=np.int64)

    def read(self, block: int, columns: list[str] | None = None) -> pa.Table:
        """Return a block, `SEQUENCE_SCHEMA` and the features of events."""
        try:
            if not self._file.num_row_groups:
                return self._file.schema_arrow.empty_table()
            return self._file.read_row_group(block, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise self._torn(error) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._stream.close()

    def _torn(self, error: Exception) -> DatasetError:
        return DatasetError(self._uri, f"missing or torn: {error}; prepare it again")
