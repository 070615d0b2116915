"""The services of the stream, one row each: the only place that says which there are and how they connect.

Settings files, `histgen config`, `histgen up` and `python -m services.<name>` are derived from it. To add a
service, add a row and a folder `services/<name>/` with an `__main__.py` and what the row refers to.
References ("module:name") are resolved when they are used, so that each process loads only its own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from histgen_lib.events import (
    BagReady,
    CaseWithdrawn,
    Data,
    ReportDrafted,
    ReportSigned,
    SlideScanned,
)

if TYPE_CHECKING:
    from services.codes import Codes


@dataclass(frozen=True)
class Service:
    """One service.

    `name`: 1 to 32 letters a-z; also its folder, its section of a settings file, and its label in metrics.
    `kind`: a "worker" takes events and runs a job for each in a child process; a "web" service answers HTTP
    requests. `takes`, `gives`: the classes of the events' data. `settings`: its subclass of
    `ServiceSettings`. `factory`: a worker's makes the handler from these settings, in the child process; a
    web service's makes a `histgen_lib.runtime.service.WebService` from the settings and a `Stop`. `codes`:
    the error codes that its counters show at 0 from the start. `scaled`: the local stack starts `--tilers`
    of it. `retrieval`: it needs a model with a retrieval network; without one it is not started.
    """

    name: str
    kind: Literal["worker", "web"]
    takes: tuple[type[Data], ...]
    gives: tuple[type[Data], ...]
    settings: str
    factory: str
    codes: str = "services.codes:WORKER"
    scaled: bool = False
    retrieval: bool = False

    @property
    def module(self) -> str:
        """What `python -m` runs."""
        return f"services.{self.name}"

    @property
    def groups(self) -> dict[str, str]:
        """The consumer group that all processes of a worker share, on each of its topics."""
        group = f"histgen-{self.name}"
        if len(self.takes) == 1:
            return {self.takes[0].type: group}
        return {data.type: f"{group}-{data.type}" for data in self.takes}

    @property
    def is_entrance(self) -> bool:
        """Whether slides come in here: the gateway, whose URL is the stack's."""
        return self.kind == "web" and SlideScanned in self.gives

    @property
    def drafts(self) -> bool:
        """Whether it publishes drafts, whose age since the scan is measured."""
        return ReportDrafted in self.gives

    def make(self, *arguments: object) -> Any:
        """Call its factory, which loads all that the service runs."""
        return resolve_name(self.factory)(*arguments)

    def known_codes(self) -> Codes:
        """Load the codes of its dead letters and retries."""
        found: Codes = resolve_name(self.codes)
        return found


SERVICES = (
    Service(
        "gateway",
        "web",
        takes=(),
        gives=(SlideScanned, ReportSigned, CaseWithdrawn),
        settings="services.gateway.settings:GatewaySettings",
        factory="services.gateway.app:build",
        codes="services.gateway.settings:GATEWAY",
    ),
    Service(
        "tiler",
        "worker",
        takes=(SlideScanned,),
        gives=(BagReady,),
        settings="services.tiler.app:TilerSettings",
        factory="services.tiler.app:make_tiler",
        codes="services.tiler.app:CODES",
        scaled=True,
    ),
    Service(
        "reporter",
        "worker",
        takes=(BagReady,),
        gives=(ReportDrafted,),
        settings="services.reporter.app:ReporterSettings",
        factory="services.reporter.app:make_reporter",
        codes="services.reporter.app:CODES",
    ),
    Service(
        "librarian",
        "worker",
        takes=(ReportDrafted, ReportSigned, CaseWithdrawn),
        gives=(),
        settings="services.librarian.app:LibrarianSettings",
        factory="services.librarian.app:make_librarian",
        codes="services.librarian.app:CODES",
        retrieval=True,
    ),
    Service(
        "search",
        "web",
        takes=(),
        gives=(),
        settings="services.search.settings:SearchSettings",
        factory="services.search.app:build",
        codes="services.search.settings:SEARCH",
        retrieval=True,
    ),
)


def service_named(name: str) -> Service:
    """Return the row of a name; LookupError if there is none."""
    for row in SERVICES:
        if row.name == name:
            return row
    raise LookupError(name)
