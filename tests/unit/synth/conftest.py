"""A few rendered slides that the synth tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from histgen_lib.synth import SlideSpec, render, sample
from histgen_lib.synth.painting import RenderedSlide

SEED = 11


def first_spec(accept: Callable[[SlideSpec], bool]) -> SlideSpec:
    """Return the smallest of the first slides of the test seed for which `accept` holds."""
    fitting = [spec for spec in (sample(SEED, index) for index in range(400)) if accept(spec)]
    return min(fitting, key=lambda spec: spec.size_px[0] * spec.size_px[1])


@pytest.fixture(scope="session")
def involved() -> RenderedSlide:
    return render(first_spec(lambda s: s.fields.get("margins") == "involved" and _all_findings(s)))


@pytest.fixture(scope="session")
def uninvolved() -> RenderedSlide:
    return render(first_spec(lambda s: s.fields.get("margins") == "uninvolved" and _all_findings(s)))


@pytest.fixture(scope="session")
def inflamed() -> RenderedSlide:
    return render(
        first_spec(
            lambda s: s.fields.get("inflammation") == "chronic active" and s.fields["granulomas"] == "present"
        )
    )


def _all_findings(spec: SlideSpec) -> bool:
    return spec.fields["necrosis"] == spec.fields["lymphovascular_invasion"] == "present"
