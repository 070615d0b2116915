"""What people have said about reports: signed, with which text, or withdrawn. These records are the truth.

A signature lies under the digest of the draft that was signed, and holds the whole text, so that it outlives
the draft. A withdrawal is about all reports of a slide or case, those to come included; it holds until a
person signs again and says that it is to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from histgen_lib.catalogue.keys import (
    WITHDRAWN,
    ReportOwner,
    owner_of,
    signed_key,
    signed_prefix,
    withdrawn_key,
)
from histgen_lib.files import json_digest, sealed_json, unsealed_object
from histgen_lib.storage import ObjectStore

SCHEMA = 1


@dataclass(frozen=True)
class Signature:
    """A person has signed a report: the draft with `report_digest`, with `text` as it is to stand.

    `at`: when, UTC. `by`: who, as far as the door knows. `stain`, `site`: as the lab states them, "" if it
    does not. `synthetic`: the slide was drawn by a computer.
    """

    owner: ReportOwner
    report_digest: str
    text: str
    by: str
    at: datetime
    stain: str = ""
    site: str = ""
    synthetic: bool = False

    @property
    def key(self) -> str:
        """Its key."""
        return signed_key(self.owner, self.report_digest)

    @property
    def said(self) -> str:
        """A digest of what was said, whoever said it and when."""
        return json_digest([self.report_digest, self.text, self.stain, self.site, self.synthetic])

    def to_bytes(self) -> bytes:
        """Return sealed JSON."""
        facts = {name: value for name, value in vars(self).items() if name not in ("owner", "at")}
        return sealed_json({"schema": SCHEMA, "owner": self.owner.name, "at": self.at.isoformat(), **facts})

    @classmethod
    def read(cls, data: bytes | None, key: str) -> Signature | None:
        """Read what `to_bytes` wrote under `key`; None for anything else."""
        found = _facts(data)
        try:
            owner = ReportOwner.named(found.pop("owner"))
            signature = cls(owner=owner, at=datetime.fromisoformat(found.pop("at")), **found)
            sound = signature.key == key and signature.at.tzinfo is not None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return signature if sound else None


@dataclass(frozen=True)
class Withdrawal:
    """A person wants nobody to find the reports of a slide or case any more. `reason`: in their words."""

    owner: ReportOwner
    by: str
    at: datetime
    reason: str = ""

    @property
    def key(self) -> str:
        """Its key."""
        return withdrawn_key(self.owner)

    def to_bytes(self) -> bytes:
        """Return sealed JSON."""
        return sealed_json(
            {
                "schema": SCHEMA,
                "owner": self.owner.name,
                "by": self.by,
                "at": self.at.isoformat(),
                "reason": self.reason,
            }
        )

    @classmethod
    def read(cls, data: bytes | None, key: str) -> Withdrawal | None:
        """Read what `to_bytes` wrote under `key`; None for anything else."""
        found = _facts(data)
        try:
            owner = ReportOwner.named(found.pop("owner"))
            withdrawal = cls(owner=owner, at=datetime.fromisoformat(found.pop("at")), **found)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return withdrawal if withdrawal.key == key else None


def _facts(data: bytes | None) -> dict[str, Any]:
    found = unsealed_object(data)
    return found if found.pop("schema", None) == SCHEMA else {}


def signature_of(store: ObjectStore, owner: ReportOwner, digest: str) -> Signature | None:
    """Return the signature of a report; None if there is none that can be read."""
    key = signed_key(owner, digest)
    return Signature.read(store.find(key), key)


def signatures_of(store: ObjectStore, owner: ReportOwner) -> list[Signature]:
    """Return all signatures of a slide's or a case's reports that can be read, the latest last."""
    prefix = signed_prefix(owner)
    own = [info.key for info in store.list(prefix) if "/" not in info.key.removeprefix(prefix)]
    found = [one for key in own if (one := Signature.read(store.find(key), key))]
    return sorted(found, key=lambda one: (one.at.astimezone(UTC), one.report_digest))


def is_withdrawn(store: ObjectStore, owner: ReportOwner) -> bool:
    """Whether the reports of a slide or case are withdrawn. A record that cannot be read counts, too."""
    return store.head(withdrawn_key(owner)) is not None


def shows_withdrawn(store: ObjectStore, owner: ReportOwner, slide_id: str) -> bool:
    """Whether a report of this owner, or the slide that it is shown by, is withdrawn."""
    return any(is_withdrawn(store, one) for one in {owner, ReportOwner(slide_id)})


def withdrawn_owners(store: ObjectStore) -> Iterator[ReportOwner]:
    """Yield whose reports are withdrawn, by the keys alone."""
    return (owner_of(info.key) for info in store.list(WITHDRAWN) if info.key.endswith(".json"))
