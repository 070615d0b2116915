"""What a stack tells its services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histgen_lib.access.places import FilePlace
from histgen_lib.client.home import StackHome
from histgen_lib.errors import InvalidInputError
from histgen_lib.stack.settings import StackSettings, service_environment, service_names
from services.settings import ServiceSettings
from services.wiring import slide_roots


@pytest.mark.parametrize("roots", [("/archive", "s3://lab/scans"), ()])
def test_all_services_take_slides_from_the_same_places_the_watched_folder_among_them(
    monkeypatch, tmp_path, roots
):
    settings = StackSettings(home=tmp_path, model=tmp_path, watch=tmp_path / "scans", roots=roots)
    found = set()
    for name in service_names(settings):
        environment = service_environment(
            settings,
            name,
            home=StackHome(tmp_path),
            bus="embedded:/b",
            inference="onnx",
            gateway="http://h:1",
        )
        assert json.loads(environment["HISTGEN_ROOTS"]) == [str(tmp_path / "scans"), str(tmp_path), *roots]
        for variable in ("BUS", "STORE", "ROOTS", "WATCH"):
            monkeypatch.setenv(f"HISTGEN_{variable}", environment[f"HISTGEN_{variable}"])
        found.add(slide_roots(ServiceSettings.load()))
    (allowed,) = found

    allowed.require(FilePlace(tmp_path / "scans/a.svs"))
    allowed.require(FilePlace(tmp_path / "world/a.svs"))
    assert (Path("/archive") in allowed.folders) == bool(roots)
    for elsewhere in (tmp_path.parent / "a.svs", Path("/etc/passwd"), Path.home() / "a.svs"):
        with pytest.raises(InvalidInputError) as caught:
            allowed.require(FilePlace(elsewhere))
        assert caught.value.code == "uri-outside-roots"
