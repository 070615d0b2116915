"""Whose reports are withdrawn, by the store: nobody is to find them, whatever an index still holds."""

from __future__ import annotations

from histgen_lib.storage import ObjectStore

WITHDRAWN = "withdrawn/"


def withdrawn_owners(store: ObjectStore) -> frozenset[str]:
    """Return the names (`ReportOwner.name`) of all withdrawn owners. Raises what the store raises."""
    return frozenset(
        info.key.removeprefix(WITHDRAWN).removesuffix(".json")
        for info in store.list(WITHDRAWN)
        if info.key.endswith(".json")
    )


def is_withdrawn(store: ObjectStore, owner: str) -> bool:
    """Whether an owner, by its name, is withdrawn. Raises what the store raises."""
    return store.head(f"{WITHDRAWN}{owner}.json") is not None
