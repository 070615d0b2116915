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


@pytest.mark.parametrize("stated", [("/archive", "s3://lab/scans"), ()])
def test_all_services_take_slides_from_the_same_places_the_watched_folder_among_them(
    monkeypatch, tmp_path, stated
):
    settings = StackSettings(home=tmp_path, model=tmp_path, watch=tmp_path / "scans", roots=stated)
    found = set()
    for name in service_names(settings):
        told = service_environment(
            settings,
            name,
            home=StackHome(tmp_path),
            bus="embedded:/b",
            inference="onnx",
            gateway="http://h:1",
        )
        assert json.loads(told["HISTGEN_ROOTS"]) == [str(tmp_path / "scans"), str(tmp_path), *stated]
        for variable in ("BUS", "STORE", "ROOTS", "WATCH"):
            monkeypatch.setenv(f"HISTGEN_{variable}", told[f"HISTGEN_{variable}"])
        found.add(slide_roots(ServiceSettings.load()))
    (roots,) = found

    roots.require(FilePlace(tmp_path / "scans/a.svs"))
    roots.require(FilePlace(tmp_path / "world/a.svs"))
    assert (Path("/archive") in roots.folders) == bool(stated)
    for elsewhere in (tmp_path.parent / "a.svs", Path("/etc/passwd"), Path.home() / "a.svs"):
        with pytest.raises(InvalidInputError) as caught:
            roots.require(FilePlace(elsewhere))
        assert caught.value.code == "uri-outside-roots"
