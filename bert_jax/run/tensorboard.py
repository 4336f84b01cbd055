"""Scalars for TensorBoard: an event file (TFRecords of tensorflow/core/util/event.proto)."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bert_jax.workdir.log_file import LogFile


class EventFile:
    """A new event file in a folder, for the steps after `start`; what older files have of them is hidden."""

    def __init__(self, folder: Path, *, start: int):
        with _without_pytorch():
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c
        self._event, self._summary, self._masked_crc32c = Event, Summary, masked_crc32c
        self._file = LogFile(folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}")
        self._add(file_version="brain.Event:2")
        self._add(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(step=step, summary=self._summary(value=values))

    def flush(self) -> None:
        """Tries once more what the disk has refused."""
        self._file.flush()

    def _add(self, **fields: Any) -> None:
        """A TFRecord of an event (tensorflow/core/lib/io/record_writer.h)."""
        data = self._event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", self._masked_crc32c(part)) for part in (length, data)]
        self._file.write(length + checksums[0] + data + checksums[1])


@contextmanager
def _without_pytorch() -> Iterator[None]:
    """tensorboardX would import PyTorch, where that is installed, for seconds and for nothing."""
    hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)
    yield
    for name in hidden:
        del sys.modules[name]
