"""Which objects in the store belong to slides, for a person who looks at them one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from histgen_lib.catalogue import keys
from histgen_lib.catalogue.states import SlideState
from histgen_lib.events import SlideScanned
from histgen_lib.storage import ObjectInfo, ObjectStore


def objects_of(store: ObjectStore, states: Collection[SlideState]) -> list[ObjectInfo]:
    """Return every object of these slides and of their cases, each once."""
    listed = {info.key: info for prefix in _prefixes(states) for info in store.list(prefix)}
    return [*listed.values(), *(info for key in _single_keys(states) if (info := store.head(key)))]


def attempts_at(store: ObjectStore, event_names: Collection[str]) -> dict[str, int]:
    """Count the unfinished attempts at events, by worker."""
    attempts = (info.key.removeprefix(keys.ATTEMPTS).split("/") for info in store.list(keys.ATTEMPTS))
    return dict(Counter(worker for worker, event_name, *_ in attempts if event_name in event_names))


def _prefixes(states: Collection[SlideState]) -> Iterator[str]:
    events = [state.event.data for state in states if state.event]
    scans = [data for data in events if isinstance(data, SlideScanned)]
    for slide_id in _ids(states):
        yield from (f"{area}{slide_id}/" for area in (keys.SLIDES, keys.BAGS, keys.REPORTS))
    for case_id in sorted({data.case_id for data in scans if data.case_id}):
        yield from (f"{area}{case_id}/" for area in (keys.CASES, keys.CASE_REPORTS))
    yield from (state.draft.key.removesuffix(keys.DRAFT_JSON) for state in states if state.draft)
    yield from sorted({keys.contents_prefix(data.content_id) for data in scans})


def _single_keys(states: Collection[SlideState]) -> Iterator[str]:
    yield from map(keys.owner_key, _ids(states))
    yield from (state.letter.key for state in states if state.letter)


def _ids(states: Iterable[SlideState]) -> list[str]:
    return sorted({state.slide_id for state in states})
