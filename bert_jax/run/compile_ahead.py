"""Compiles a program before it is due, in a thread, while another one runs."""

from __future__ import annotations

import threading
from typing import Any

import jax


class CompileAhead:
    """One program at a time. JAX keeps what the thread has compiled for whoever calls the function next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def begin(self, function: Any, *arguments: Any) -> None:
        """Begins to compile a jitted function for arguments like these, of which only `abstract` is read."""
        mesh = jax.sharding.get_mesh()  # a thread does not inherit it

        def compile_it() -> None:
            with jax.set_mesh(mesh):
                function.lower(*arguments).compile()

        self.wait()
        self._thread = threading.Thread(target=compile_it, name="compile ahead")
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def abstract(array: jax.Array, *, rows: int | None = None) -> jax.ShapeDtypeStruct:
    """Shape, type and layout of an array; with another number of rows, if one is given."""
    shape = array.shape if rows is None else (rows, *array.shape[1:])
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=array.sharding)
