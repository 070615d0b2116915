"""A secret is created once for its owner alone, and one that others can read is refused."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError
from histgen_lib.secret import given_secret, own_secret


def test_a_secret_is_created_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "token"
    secret = own_secret(path)
    assert own_secret(path) == secret
    assert len(bytes.fromhex(secret)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_create_a_secret_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as makers:
        assert len(set(makers.map(lambda _: own_secret(tmp_path / "s" / "token"), range(32)))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    own_secret(tmp_path / "token")
    (tmp_path / "token").chmod(mode)
    with pytest.raises(FatalError) as caught:
        own_secret(tmp_path / "token")
    assert caught.value.code == "secret-exposed"


def test_a_secret_of_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_secret(tmp_path / "token")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(FatalError) as caught:
        own_secret(tmp_path / "token")
    assert caught.value.code == "secret-exposed"


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _empty(path: Path) -> None:
    path.touch(0o600)


@pytest.mark.parametrize("plant", [_link, _fifo, _empty, Path.mkdir])
def test_a_file_that_cannot_be_a_secret_is_refused_at_once(tmp_path: Path, plant: object) -> None:
    plant(tmp_path / "token")  # type: ignore[operator]
    with pytest.raises(FatalError) as caught:
        own_secret(tmp_path / "token")
    assert caught.value.code == "secret-unusable"


def test_a_secret_is_read_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    """By links, readable by the service's group."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "key").write_text("s3cret\n")
    (tmp_path / "..data" / "key").chmod(0o440)
    (tmp_path / "key").symlink_to("..data/key")
    assert given_secret(tmp_path / "key") == "s3cret"
    assert own_secret(tmp_path / "key") == "s3cret"  # a service's own token may be mounted, too
    (tmp_path / "..data" / "key").chmod(0o444)
    with pytest.raises(FatalError) as caught:
        own_secret(tmp_path / "key")
    assert caught.value.code == "secret-exposed"


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o620])
def test_a_provided_secret_that_everybody_can_read_or_others_change_is_refused(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / "key").write_text("s3cret")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(FatalError) as caught:
        given_secret(tmp_path / "key")
    assert caught.value.code == "secret-exposed"
    assert "chmod" in caught.value.hint


def test_a_missing_provided_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        given_secret(tmp_path / "key")
    assert caught.value.code == "secret-unusable"
    assert str(tmp_path / "key") in caught.value.message
