"""The very first start of everything is struck again and again: what is half made then, is made anew."""

from __future__ import annotations

import random

import pytest
from running_stack import stack_up, strike_while_it_starts

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", range(3))
def test_a_first_start_of_kafka_triton_and_services_that_is_struck_comes_up(
    seed, kafka_home, triton_home, model_dir, tmp_path
):
    home, options = tmp_path / "home", ("--broker", "kafka", "--inference", "triton", "--model", model_dir)
    strike_while_it_starts(home, *options, chance=random.Random(seed), times=12, within_s=9.0)
    with stack_up(home, *options) as stack:
        told = stack.json("watch")["services"]
        assert {one["name"] for one in told if one["ready"]} == {"gateway", "tiler", "reporter"}
