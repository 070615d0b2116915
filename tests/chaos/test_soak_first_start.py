"""A first start that is interrupted again and again: what was left half made is made again."""

from __future__ import annotations

import random

import pytest
from running_stack import interrupt_starts, stack_up

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", range(3))
def test_a_stack_comes_up_after_many_interrupted_first_starts(
    seed, kafka_home, triton_home, model_dir, tmp_path
):
    home, options = tmp_path / "home", ("--broker", "kafka", "--inference", "triton", "--model", model_dir)
    interrupt_starts(home, *options, chance=random.Random(seed), times=12, within_s=9.0)
    with stack_up(home, *options) as stack:
        services = stack.json("watch")["services"]
        assert {one["name"] for one in services if one["ready"]} == {"gateway", "tiler", "reporter"}
