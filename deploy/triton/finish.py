"""Make an environment that holds nvidia-pytriton able to run tritonserver: run by its own Python.

The Python backend looks for its stub beside itself, and the stub needs libpython. Prints what is missing:
nothing, or the Debian package with libpython.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def copy_stub() -> None:
    """Copy the stub of this Python's version to where the backend starts it."""
    (package,) = (find_spec("pytriton") or sys.exit("pytriton is not installed")).submodule_search_locations
    server = Path(package) / "tritonserver"
    stub = server / "python_backend_stubs" / VERSION / "triton_python_backend_stub"
    if not stub.is_file():
        versions = sorted(folder.name for folder in (server / "python_backend_stubs").iterdir())
        sys.exit(f"Triton's Python backend does not know Python {VERSION}, only {', '.join(versions)}")
    shutil.copy2(stub, server / "backends" / "python" / stub.name)


def link_libpython() -> bool:
    """Link this Python's shared library, or Debian's of the same version, into the environment's lib/."""
    name = f"libpython{VERSION}.so.1.0"
    ours = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere")
    multiarch = getattr(sys.implementation, "_multiarch", "")  # where Debian has libraries
    for folder in (ours, Path("/usr/lib") / multiarch, Path("/usr/local/lib"), Path("/usr/lib64")):
        if (folder / name).is_file():
            link = Path(sys.prefix) / "lib" / name
            link.unlink(missing_ok=True)
            link.symlink_to(folder / name)
            return True
    return False


if __name__ == "__main__":
    copy_stub()
    if not link_libpython():
        print(f"libpython{VERSION}")
