"""What a program sends is read from its compiled text."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.planning.collectives import Collective, collectives
from bert_jax.planning.custom_calls import custom_calls, report

# Shortened from the text of a step compiled for v5e; starts come with what they start from.
# ruff: noqa: E501
ASYNCHRONOUS = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

ENTRY %main.1 (p0: f32[8,128]) -> f32[64,128] {
  %p0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %ag = (f32[8,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}, u32[], u32[]) all-gather-start(%p0), replica_groups={}
  %ar = (bf16[30522]{0}, f32[16]{0}) all-reduce-start(%p1, %p2), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %done = f32[64,128]{1,0:T(8,128)} all-gather-done(%ag)
}
"""

# Shortened from steps compiled for H100s: a reduce-scatter starts with tuples, others stand in a computation that
# is started; updates and ends name it again.
GPU = """
%wrapped (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  ROOT %rs.1 = f32[8]{0} reduce-scatter(%p), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, to_apply=%add
}

%body.1 (arg: (s32[], bf16[2])) -> (s32[], bf16[2]) {
  %fwd.1 = (bf16[2,2]{1,0}, u8[0]{0}) custom-call(%a, %b), custom_call_target="__cudnn$fmhaSoftmax", metadata={}
  %ag.1 = ((bf16[4,8]{1,0}, f32[2]{0}), (bf16[64,8]{1,0}, f32[32]{0})) all-gather-start(%a, %b), replica_groups=[1,16]<=[16]
}

ENTRY %main.1 (p0: f32[8,128]) -> f32[64,128] {
  %w = (s32[], bf16[2]{0}) while(%t), condition=%cond, body=%body.1, backend_config={"known_trip_count":{"n":"12"}}
  %bwd.1 = (bf16[2,2]{1,0}, u8[0]{0}) custom-call(%a), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={}
  %top = (f32[2]{0}, s32[2]{0}) custom-call(%a), custom_call_target="TopK"
  %rs = ((f32[128,128]{1,0}, f32[128,2]{1,0}), (f32[8,128]{1,0}, f32[8,2]{1,0})) reduce-scatter-start(%c, %d), replica_groups=[1,16]<=[16], to_apply=%add
  %as = ((f32[64]{0}), f32[8]{0}) async-start(%p), calls=%wrapped
  %au = ((f32[64]{0}), f32[8]{0}) async-update(%as), calls=%wrapped
  ROOT %ad = f32[8]{0} async-done(%au), calls=%wrapped
}
"""
# Shortened from a step compiled for v5e, whose loops have no trip count.
TPU_LOOP = """
%body.1 (arg: (s32[], bf16[2])) -> (s32[], bf16[2]) {
  %k.1 = (bf16[2,2]{1,0}) custom-call(%a), custom_call_target="tpu_custom_call"
}

%cond.1 (p: (s32[], bf16[2])) -> pred[] {
  %constant.650 = s32[]{:T(128)} constant(24), metadata={op_name="jit(train_step)"}
  %p = (s32[]{:T(128)}, bf16[2]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %constant.650), direction=LT, metadata={op_name="while/cond/lt"}
}

ENTRY %main.1 (p0: f32[8,128]) -> f32[64,128] {
  %w = (s32[], bf16[2]{0}) while(%t), condition=%cond.1, body=%body.1, metadata={op_name="while"}
}
"""
TWO_HOSTS = [0] * 8 + [1] * 8


def test_started_ones_count_once_and_by_their_result():
    assert collectives(ASYNCHRONOUS, hosts=[0] * 8) == [
        Collective("all-gather", 64 * 128 * 4, 1, 8, 1),
        Collective("all-reduce", 2 * 30522 + 4 * 16, 1, 8, 1),
    ]


def test_a_gpus_program_tells_who_sends_to_other_hosts():
    assert collectives(GPU, hosts=TWO_HOSTS) == [
        Collective("reduce-scatter", 8 * 4, 1, 8, 1),
        Collective("all-gather", 64 * 8 * 2 + 32 * 4, 12, 16, 2),
        Collective("reduce-scatter", 8 * 128 * 4 + 8 * 2 * 4, 1, 16, 2),
    ]


@pytest.mark.parametrize(
    ("kind", "devices", "hosts", "inside", "outside"),
    [
        ("all-reduce", 8, 1, 2 * 800 * 7 / 8, 0),
        ("all-reduce", 32, 4, 2 * 800 * 7 / 8, 2 * 100 * 3 / 4),
        ("all-reduce", 4, 4, 0, 2 * 800 * 3 / 4),  # one device a host
        ("all-gather", 32, 4, 800 * 7 / 8, 100 * 3 / 4),
        ("reduce-scatter", 8, 1, 6400 * 7 / 8, 0),
        ("reduce-scatter", 16, 2, 12800 * 7 / 8, 1600 / 2),
        ("all-to-all", 16, 2, 50 * 7, 50 * 8),
        ("collective-permute", 2, 1, 800, 0),
        ("collective-permute", 2, 2, 0, 800),
        ("all-reduce", 1, 1, 0, 0),
    ],
)
def test_bytes_go_over_the_links_of_a_host_and_between_hosts(
    kind: str, devices: int, hosts: int, inside: float, outside: float
):
    assert Collective(kind, 800, 1, devices, hosts).sent == pytest.approx((inside, outside))


def test_custom_calls_have_names_and_turns():
    calls = custom_calls(GPU)
    assert calls == {"__cudnn$fmhaSoftmax": 12, "__cudnn$fmhaSoftmaxBackward": 1, "TopK": 1}
    assert list(report(calls)) == [
        "fused attention: __cudnn$fmhaSoftmax x12, __cudnn$fmhaSoftmaxBackward x1",
    ]
    assert list(report({"__cublas$gemm": 5, "TopK": 1})) == [
        "attention is not fused",
        "other custom calls: __cublas$gemm x5",
    ]
    assert list(report({})) == ["attention is not fused"]


def test_a_loop_without_a_trip_count_goes_on_to_the_bound_of_its_condition():
    assert custom_calls(TPU_LOOP) == {"tpu_custom_call": 24}


def test_a_loops_turns_are_counted():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    def program(x):
        def turn(total, _):
            return jnp.sin(total + jax.lax.psum(x * total, "data")), None

        total = jax.lax.scan(turn, jnp.ones((1, 300)), None, length=5)[0]
        return jax.lax.psum(total[:, :100] * x[:, :100], "data")

    x = jax.ShapeDtypeStruct((8, 300), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    text = jax.jit(program).lower(x).compile().as_text()
    assert sorted(collectives(text, hosts=[0] * 8)) == [
        Collective("all-reduce", 400, 1, 8, 1),
        Collective("all-reduce", 1200, 5, 8, 1),
    ]
    assert {found.hosts for found in collectives(text, hosts=[0, 0, 1, 1, 2, 2, 3, 3])} == {4}
