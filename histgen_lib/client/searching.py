"""Asking the search service of a stack: one on this machine, or one that is known by its URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histgen_lib.client.api import CA_FILE, post_json, running_services
from histgen_lib.client.connection import not_running, remote_gateway
from histgen_lib.client.home import StackHome, default_home
from histgen_lib.errors import TransientError
from histgen_lib.secret import read_secret

URL = "HISTGEN_SEARCH"
"""The variable that names a remote search service."""
SERVICE = "search"


@dataclass(frozen=True)
class SearchService:
    """A search service, and the token for it if we have one."""

    url: str
    token: str | None
    ca_file: Path | None = None

    def search(self, asked: Mapping[str, object]) -> dict[str, Any]:
        """Send a question as POST /search takes it, and return the answer. Raises as `post_json`."""
        page = f"{self.url.rstrip('/')}/search"
        return post_json(page, asked, self.token, ca_file=self.ca_file, who="search service")


def find_search_service(url: str | None, home: Path | None, environment: Mapping[str, str]) -> SearchService:
    """Find the service at `url`, else that of the stack in a folder, else the one that HISTGEN_SEARCH names.

    Raises TransientError: "stack-not-running", "search-not-running"; and as `Connection.token`.
    """
    folder = StackHome(home or default_home(environment))
    if not url and not (home is None and environment.get(URL) and not folder.running()):
        return _of_stack(folder, environment)
    remote = remote_gateway(url or environment[URL], environment)
    return SearchService(remote.url, remote.token(), remote.ca_file)


def _of_stack(home: StackHome, environment: Mapping[str, str]) -> SearchService:
    if not home.running():
        raise not_running(home)
    for service in running_services(home.run_dir):
        if service.name == SERVICE:
            path = environment.get(CA_FILE)
            return SearchService(service.url, read_secret(service.token_file), Path(path) if path else None)
    raise TransientError(
        "search-not-running",
        f"The stack in {home.folder} has no search service now.",
        hint="It has one once it has started with a model that has a retrieval network; see histgen status.",
    )
