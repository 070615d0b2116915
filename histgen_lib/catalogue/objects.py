"""What a job returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Made(Generic[T]):
    """What is to be told of a job that is done, and what to count: a worker's measures."""

    data: T
    measures: Mapping[str, float] = field(default_factory=dict)
