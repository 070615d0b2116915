"""`histgen model sync`, as people and init containers call it."""

from __future__ import annotations

import json
from pathlib import Path

from servers.s3_servers import S3Server


def test_it_says_what_it_did(histgen, model_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    code, out, _ = histgen("model", "sync", f"file:{model_dir}", target, "--json")
    said = json.loads(out)
    assert (code, said["folder"], said["model"], said["changed"]) == (0, str(target), "tiny", True)

    code, out, _ = histgen("model", "sync", f"file:{model_dir}", target, "--digest", said["sha256"])
    assert (code, "up to date" in out, said["sha256"] in out) == (0, True, True)


def test_a_bucket_is_found_as_the_services_find_theirs(
    histgen, model_dir: Path, tmp_path: Path, moto_server: S3Server, monkeypatch
) -> None:
    bucket = moto_server.make_bucket()
    for path in (path for path in model_dir.rglob("*") if path.is_file()):
        moto_server.client(bucket).upload_file(str(path), bucket, f"m/{path.relative_to(model_dir)}")
    monkeypatch.setenv("HISTGEN_STORE_ENDPOINT", moto_server.endpoint)
    monkeypatch.setenv("HISTGEN_STORE_REGION", "us-east-1")
    code, _, _ = histgen("model", "sync", f"s3://{bucket}/m", tmp_path / "model")

    assert code == 0
    assert (tmp_path / "model" / "config.json").read_bytes() == (model_dir / "config.json").read_bytes()


def test_what_cannot_be_copied_has_a_code(histgen, tmp_path: Path) -> None:
    for uri, code, name in (("https://x", 65, "model-source"), (f"file:{tmp_path}", 78, "model-missing")):
        found, _, err = histgen("model", "sync", uri, tmp_path / "model")
        assert (found, f"error[{name}]" in err) == (code, True)
