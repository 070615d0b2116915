"""POST /replay: what `histgen replay` does, for those who reach neither store nor broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from histgen_lib.bus import Publisher
from histgen_lib.catalogue.replay import Replayed, choose, replay, resend, resent_json, unfinished
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.web.bodies import Body, Text, invalid_request, json_object
from histgen_lib.storage import ObjectStore

_FIELDS = (
    "The fields are code, letters (a list of names), all and unfinished (true), one of them, and dry_run: "
    '{"code": "slide-missing", "dry_run": true}.'
)


class Selection(Body):
    """The body of the request: which dead letters, or all slides that are unfinished."""

    code: Text | None = None
    letters: Annotated[list[Text], Field(min_length=1)] | None = None
    all: bool = False
    unfinished: bool = False
    dry_run: bool = False


def read_selection(body: bytes) -> Selection:
    """Read the body of POST /replay.

    Raises InvalidInputError: "request-unreadable", "request-invalid", "replay-unstated",
    "replay-contradictory".
    """
    try:
        found = Selection.model_validate(json_object(body))
    except ValidationError as error:
        raise invalid_request(error, _FIELDS) from None
    chosen = bool(found.code) + bool(found.letters) + found.all + found.unfinished
    if chosen > 1:
        raise InvalidInputError(
            "replay-contradictory", "More than one choice of what to retry was made.", hint=_FIELDS
        )
    if not chosen and not found.dry_run:
        raise InvalidInputError("replay-unstated", "No dead letters are selected.", hint=_FIELDS)
    return found


@dataclass(frozen=True)
class Replaying:
    """Replays from this store to this broker. `touch` is called with each slide that changed."""

    store: ObjectStore
    publisher: Publisher
    touch: Callable[[str], None]

    def run(self, wanted: Selection, by: str) -> dict[str, Any]:
        """Retry what is wanted, or only look for it; return what `histgen replay --json` prints.

        `by`: who asks, for the audit log. Raises what store and publisher raise; then call it again.
        """
        if wanted.unfinished:
            slides = unfinished(self.store) if wanted.dry_run else resend(self.store, self.publisher, by=by)
            return {"dry_run": wanted.dry_run, "slides": [resent_json(slide) for slide in slides]}
        letters = self._letters(wanted, by)
        return {"dry_run": wanted.dry_run, "letters": [letter.to_json() for letter in letters]}

    def _letters(self, wanted: Selection, by: str) -> list[Replayed]:
        if wanted.dry_run:
            return list(choose(self.store, code=wanted.code, event_ids=wanted.letters))
        done = []
        for one in replay(self.store, self.publisher, code=wanted.code, event_ids=wanted.letters, by=by):
            if one.letter and not one.refused:
                self.touch(one.letter.event.key if one.letter.event else one.letter.key)
            done.append(one)
        return done
