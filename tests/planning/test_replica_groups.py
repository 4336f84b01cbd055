"""Groups of devices, in the forms in which XLA prints them."""

from __future__ import annotations

import pytest

from bert_jax.planning.replica_groups import replica_groups


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, use_global_device_ids=true", [[0, 1], [2, 3]]),
        ("replica_groups={{0,1,2,3}}, to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups={}, to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4], to_apply=%add", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=[1,4]<=[4], to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2), to_apply=%add", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add", [[0, 1], [2, 3]]),
        (
            "replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=(0,2,1,3) {'axis_1'}, x=1",
            [[0, 2], [1, 3]],
        ),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, to_apply=%add", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, to_apply=%add", [[0, 1], [2, 3]]),
        ("channel_id=1, source_target_pairs={{0,1},{1,0}}, metadata={}", [[0, 1], [1, 0]]),
    ],
)
def test_who_takes_part(text: str, groups: list[list[int]]):
    line = f"  %ar = f32[8]{{0}} all-reduce(%x), channel_id=1, {text}"
    assert replica_groups(line, devices=4) == groups


def test_another_form_is_an_error():
    with pytest.raises(ValueError, match="no replica groups in a form that is known"):
        replica_groups("  %ar = f32[8]{0} all-reduce(%x), replica_groups=<new>", devices=4)
