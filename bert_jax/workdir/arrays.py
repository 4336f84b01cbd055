"""Arrays of a checkpoint, written by several machines to a disk that they share."""

from __future__ import annotations

import dataclasses

import jax
import orbax.checkpoint as ocp
from etils import epath

from bert_jax.parallel.processes import wait_until_visible


class ArraysHandler(ocp.StandardCheckpointHandler):
    """Orbax's, but for a disk on which a machine sees late what the others have written.

    Orbax lists what each process wrote and makes one whole of it; where it misses one, the checkpoint fails.
    """

    def finalize(self, directory: epath.Path) -> None:
        """Called on process 0 when all processes have written."""
        written = [directory / "array_metadatas" / f"process_{i}" for i in range(jax.process_count())]
        wait_until_visible(lambda: all(path.exists() for path in written))
        super().finalize(directory)


@ocp.args.register_with_handler(ArraysHandler, for_save=True)
@dataclasses.dataclass
class ArraysSave(ocp.args.StandardSave):
    """Arrays to write."""


@ocp.args.register_with_handler(ArraysHandler, for_restore=True)
@dataclasses.dataclass
class ArraysRestore(ocp.args.StandardRestore):
    """Arrays to read: their shapes and layouts."""
