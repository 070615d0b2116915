"""How the index writes down where a slide stands."""

from __future__ import annotations

import json

from histgen_lib.catalogue.dead_letter import DeadLetter
from histgen_lib.catalogue.states import DraftFacts, SlideState
from histgen_lib.events import Event


def packed(state: SlideState) -> str:
    """Write a state, without the parts of its draft, which nobody is told of."""
    draft = (
        {name: value for name, value in vars(state.draft).items() if name != "parts"} if state.draft else 0
    )
    told = {
        "slide_id": state.slide_id,
        "state": state.state,
        "event": state.event and state.event.to_json(),
        "draft": draft,
        "letter": state.letter and state.letter.to_bytes().decode(),
        "lacks": state.lacks,
        "copies": state.copies,
        "damaged": state.damaged,
    }
    return json.dumps({name: value for name, value in told.items() if value}, separators=(",", ":"))


def unpacked(text: str) -> SlideState:
    """Read what `packed` wrote."""
    told = json.loads(text)
    return SlideState(
        told["slide_id"],
        told["state"],
        event=Event.from_json(told["event"]) if "event" in told else None,
        draft=DraftFacts(**told["draft"] | {"parts": ()}) if "draft" in told else None,
        letter=DeadLetter.from_bytes(told["letter"].encode()) if "letter" in told else None,
        lacks=tuple(told.get("lacks", ())),
        copies=tuple(told.get("copies", ())),
        damaged=tuple(told.get("damaged", ())),
    )
