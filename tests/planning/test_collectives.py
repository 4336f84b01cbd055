"""What a program sends is read from its compiled text."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.planning.collectives import Collective, collectives

# Shortened from the text of a step compiled for v5e; starts come with what they start from.
ASYNCHRONOUS = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main.1 (p0: f32[8,128]) -> f32[64,128] {
  %p0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %ag = (f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}, u32[], u32[]) all-gather-start(%p0)
  %ar = (bf16[30522]{0}, f32[16]{0}) all-reduce-start(%p1, %p2), to_apply=%add
  ROOT %done = f32[64,128]{1,0:T(8,128)} all-gather-done(%ag)
}
"""


def test_started_ones_count_once_and_by_their_result():
    assert collectives(ASYNCHRONOUS) == [
        Collective("all-gather", 64 * 128 * 4, 1),
        Collective("all-reduce", 2 * 30522 + 4 * 16, 1),
    ]


def test_a_loops_turns_are_counted():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    def program(x):
        def turn(total, _):
            return jnp.sin(total + jax.lax.psum(x * total, "data")), None

        total = jax.lax.scan(turn, jnp.ones((1, 300)), None, length=5)[0]
        return jax.lax.psum(total[:, :100] * x[:, :100], "data")

    x = jax.ShapeDtypeStruct((8, 300), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    found = collectives(jax.jit(program).lower(x).compile().as_text())
    assert sorted(found) == [Collective("all-reduce", 400, 1), Collective("all-reduce", 1200, 5)]
