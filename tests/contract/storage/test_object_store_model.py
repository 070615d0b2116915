"""After any sequence of calls, a store holds what a dictionary would."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from histgen_lib.errors import InvalidInputError
from histgen_lib.storage import ObjectStore, StorageSettings, open_store
from histgen_lib.testing import MemoryStore

NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="/"), min_size=1, max_size=6
)
# Names of folders and objects differ, so that no key lies under another.
FOLDERS = st.lists(NAMES.map("d{}".format), max_size=3)
NEW_KEYS = st.builds(lambda folders, name: "/".join([*folders, f"o{name}"]), FOLDERS, NAMES)
KEYS = st.sampled_from(["o", "d/o", "d/o-2", "d/d/o", "d-1/o", "d.o/o", "dä/oµ"]) | NEW_KEYS
DATA = st.binary(max_size=64)
PREFIXES = st.sampled_from(["", "d", "d/", "d/o", "d/d/", "d-", "dä/o", "nothing"])


class StoreMachine(RuleBasedStateMachine):
    """Random calls on a store that `open_empty` opens, compared with a dictionary."""

    def __init__(self, open_empty: Callable[[], ObjectStore]) -> None:
        super().__init__()
        self.store = open_empty()
        self.model: dict[str, bytes] = {}

    @rule(key=KEYS, data=DATA)
    def put_first(self, key: str, data: bytes) -> None:
        assert self.store.put(key, data) == (key not in self.model)
        self.model.setdefault(key, data)

    @rule(key=KEYS, data=DATA)
    def overwrite(self, key: str, data: bytes) -> None:
        assert self.store.put(key, data, if_absent=False)
        self.model[key] = data

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=KEYS, size=st.integers(1, 70))
    def read(self, key: str, size: int) -> None:
        expected = self.model.get(key)
        info = self.store.head(key)
        assert (info and info.size_bytes) == (None if expected is None else len(expected))
        assert self.store.find(key) == expected
        if expected is None:
            with pytest.raises(InvalidInputError):
                self.store.get(key)
        else:
            assert self.store.get(key) == expected
            assert b"".join(self.store.chunks(key, size)) == expected

    @rule(prefix=PREFIXES)
    def list_some(self, prefix: str) -> None:
        found = [(info.key, info.size_bytes) for info in self.store.list(prefix)]
        assert found == [(k, len(v)) for k, v in sorted(self.model.items()) if k.startswith(prefix)]

    @invariant()
    def lists_all_in_order(self) -> None:
        assert [info.key for info in self.store.list()] == sorted(self.model)


def run(open_empty: Callable[[], ObjectStore], *, examples: int, steps: int) -> None:
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    run_state_machine_as_test(lambda: StoreMachine(open_empty), settings=limits)


def test_a_folder_behaves_like_a_dictionary(tmp_path: Path) -> None:
    def open_empty() -> ObjectStore:
        return open_store(StorageSettings(f"file:{tempfile.mkdtemp(dir=tmp_path)}"))

    run(open_empty, examples=80, steps=20)


def test_memory_behaves_like_a_dictionary() -> None:
    run(MemoryStore, examples=80, steps=20)


def test_a_bucket_behaves_like_a_dictionary(s3_server, s3_bucket: str) -> None:
    """Each sequence gets its own prefix."""
    run(
        lambda: open_store(s3_server.settings(s3_bucket, secrets.token_hex(8))),
        examples=6,
        steps=15,
    )
