"""What an event can name and no one should: devices, pipes, links, names that cannot be, and the like."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import tiny_model

UNREADABLE, OUTSIDE, MISSING = "slide-unreadable", "uri-outside-roots", "slide-missing"
URI, SIDECAR, FOLDER = "slide-uri", "slide-sidecar-invalid", "slide-is-folder"

KERNEL = (
    *("/dev/zero", "/dev/random", "/dev/full", "/dev/null", "/dev/tty", "/dev/ptmx"),
    *("/proc/kmsg", "/proc/self/mem", "/proc/self/environ", "/proc/meminfo", "/proc/1/task"),
    *("/sys/kernel/profiling", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel"),
)
"""Inside the roots of this test, so that what they are is what refuses them."""

NO_URIS = (
    *("", "a.svs", "/a.svs", "file:a.svs", "file://host/a.svs", "http://host/a.svs", "FILE:///a.svs"),
    *("file:///a%00b", "file:///a.svs?x", "file:///" + "a" * 4000, "file:///" + "%61" * 1300),
    *("s3:/lab/a.svs", "s3://", "s3://lab", "s3:///a.svs", "s3://lab/../a.svs", "S3://lab/a.svs"),
    *("s3://l b/a.svs", "s3://lab/" + "k" * 1100),
)


def no_uris() -> dict[str, tuple[str, str]]:
    """Return URIs that no file or object can have, each with the code of its letter."""
    return {f"uri-{number}": (uri, URI) for number, uri in enumerate(NO_URIS)}


def kernel_files(scans: Path) -> dict[str, tuple[str, str]]:
    """Return what the kernel shows as files, and a link to each of it."""
    uris = {}
    for number, name in enumerate(KERNEL):
        link = scans / f"kernel-{number}.svs"
        link.symlink_to(name)
        code = FOLDER if name == "/dev" else UNREADABLE
        uris |= {f"kernel-{number}": (f"file://{name}", code), f"link-{number}": (link.as_uri(), code)}
    return uris


def odd_files(scans: Path, outside: Path) -> dict[str, tuple[str, str]]:
    """Make pipes, sockets, links and folders that are no slides in `scans`; some lead `outside` of it."""
    secret = tiny_model.write_slide(outside / "secret.tif", side_px=512)
    os.mkfifo(scans / "pipe.svs")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(scans)  # the name of a socket may have 107 bytes
        listener.bind("socket.svs")
        os.chdir(here)
    links = {
        "to-pipe": scans / "pipe.svs",
        "to-socket": scans / "socket.svs",
        "loop": scans / "loop.svs",
        "dangling": scans / "not-there.svs",
        "to-secret": secret,
        "to-passwd": Path("/etc/passwd"),
    }
    for name, target in links.items():
        (scans / f"{name}.svs").symlink_to(target)
    (scans / "turn").mkdir()
    (scans / "turn/again").symlink_to(scans / "turn")
    (scans / "empty").mkdir()
    (scans / "away").symlink_to(outside)
    uris = dict.fromkeys(("pipe", "socket", "to-pipe", "to-socket"), UNREADABLE) | {
        "loop": OUTSIDE,
        "dangling": MISSING,
        "to-secret": OUTSIDE,
        "to-passwd": OUTSIDE,
    }
    return {name: ((scans / f"{name}.svs").as_uri(), code) for name, code in uris.items()} | {
        "circle": ((scans / "turn" / "/".join(["again"] * 30) / "a.svs").as_uri(), MISSING),
        "folder": ((scans / "empty").as_uri(), FOLDER),
        "folder-outside": ((scans / "away").as_uri(), OUTSIDE),
        "climbing": (f"{scans.as_uri()}/../{outside.name}/secret.tif", OUTSIDE),
        "below-a-file": (f"{scans.as_uri()}/dangling.svs/a.svs", MISSING),
        "too-long": (f"{scans.as_uri()}/{'é' * 200}.svs", URI),
        "newline": (f"{scans.as_uri()}/a%0Ab.svs", MISSING),
        "escape": (f"{scans.as_uri()}/a%1B%5B31mb.svs", MISSING),
        "not-utf-8": (f"{scans.as_uri()}/pr%E4parat.svs", MISSING),
        "no-escape": (f"{scans.as_uri()}/a%zz.svs", MISSING),
        "root": ("file:///etc/passwd", OUTSIDE),
    }


def with_companions(scans: Path, outside: Path) -> dict[str, tuple[str, str]]:
    """Make slides of several files, some of which are no files or lie `outside`."""
    os.mkfifo(scans / "companion")
    vms = "[Virtual Microscope Specimen]\nNoLayers=1\nMapFile={0}\nImageFile={0}\n"
    for name, value in (("v-out", f"../{outside.name}/secret.tif"), ("v-pipe", "companion")):
        (scans / f"{name}.vms").write_text(vms.format(value))
    for name in ("m-folder", "m-listing", "m-data", "m-pipe"):
        (scans / f"{name}.mrxs").write_bytes(b"\xff\xd8\xff\xe0 index")
        if name != "m-folder":
            (scans / name).mkdir()
            (scans / name / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0=D0.dat\n")
    (outside / "Slidedat.ini").write_text("[GENERAL]\nsecret\n")
    (scans / "m-folder").symlink_to(outside)
    (scans / "m-listing/Slidedat.ini").unlink()
    (scans / "m-listing/Slidedat.ini").symlink_to("/etc/shadow")
    (scans / "m-data/D0.dat").symlink_to(outside / "secret.tif")
    os.mkfifo(scans / "m-pipe/D0.dat")
    for name in ("d-pipe", "d-out"):
        (scans / name).mkdir()
        (scans / name / "1.dcm").write_bytes(bytes(128) + b"DICM")
    os.mkfifo(scans / "d-pipe/2.dcm")
    (scans / "d-out/2.dcm").symlink_to(outside / "secret.tif")
    return {
        **{
            f"{name}": ((scans / f"{name}.vms").as_uri(), code)
            for name, code in (("v-out", OUTSIDE), ("v-pipe", UNREADABLE))
        },
        **{
            name: ((scans / f"{name}.mrxs").as_uri(), OUTSIDE) for name in ("m-folder", "m-listing", "m-data")
        },
        "m-pipe": ((scans / "m-pipe.mrxs").as_uri(), UNREADABLE),
        "d-pipe": ((scans / "d-pipe").as_uri(), UNREADABLE),
        "d-pipe-file": ((scans / "d-pipe/1.dcm").as_uri(), UNREADABLE),
        "d-out": ((scans / "d-out").as_uri(), OUTSIDE),
    }


def with_sidecars(scans: Path) -> dict[str, tuple[str, str]]:
    """Make sound slides beside which something lies that is called as a sidecar is, and is none."""
    uris = {}
    for name in ("s-pipe", "s-shadow", "s-zeros", "s-deep", "s-device", "s-latin"):
        slide = tiny_model.write_slide(scans / f"{name}.tif", side_px=512)
        sidecar = scans / f"{name}.tif.json"
        if name == "s-pipe":
            os.mkfifo(sidecar)
        elif name in ("s-shadow", "s-device"):
            sidecar.symlink_to("/etc/shadow" if name == "s-shadow" else "/dev/zero")
        else:
            sidecar.write_bytes({"s-deep": b"[" * 60_000, "s-latin": b"\xff\xfe"}.get(name, b""))
        if name == "s-zeros":
            os.truncate(sidecar, 3 << 30)
        uris[name] = (slide.as_uri(), SIDECAR)
    beside = tiny_model.write_slide(scans / "trestle.tif", side_px=512)
    os.mkfifo(scans / "trestle.Full")
    return uris | {"trestle": (beside.as_uri(), UNREADABLE)}
