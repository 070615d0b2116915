"""One process that trains on a planted world, for tests that kill it or run two of it.

planted_run.py WORLD OUT EPOCHS [KILL_AT]: with KILL_AT the process dies, as by `kill -9`, while it writes the
run's state for the KILL_AT-th time: half of the file's bytes are on disk.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from planted_bags import PlantedWorld

from histgen_lib.training import checkpoint, train
from histgen_lib.training.checkpoint import RunState
from histgen_lib.training.report.loop import Loop


def main(world: Path, out: Path, epochs: int, kill_at: int | None = None) -> None:
    """Train; leave each process's last weights beside the model."""
    planted = PlantedWorld(world / "annotation.json", world / "bags")
    if kill_at is not None:
        die_while_saving(kill_at)
    leave_weights(out)
    several = int(os.environ.get("WORLD_SIZE", "1"))
    train(planted.settings(out, epochs=epochs, batch_size=8 // several, save_every_s=0.0), quiet=True)
    (out / f"threads{os.environ.get('RANK', '0')}.txt").write_text("\n".join(thread_names()))


def thread_names() -> list[str]:
    """List this process's native threads."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def die_while_saving(save: int) -> None:
    """End the process halfway through writing the `save`-th state."""
    count = iter(range(1, sys.maxsize))
    whole = torch.save

    def cut_short(content: Any, path: Path) -> None:
        if next(count) < save:
            whole(content, path)
            return
        buffer = io.BytesIO()
        whole(content, buffer)
        with path.open("wb") as handle:
            handle.write(buffer.getvalue()[: buffer.tell() // 2])
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = cut_short  # type: ignore[attr-defined]


def leave_weights(out: Path) -> None:
    """Write the final weights of each process to OUT/rank<r>.pt."""
    fit = Loop.fit

    def then_write(loop: Loop) -> RunState:
        run = fit(loop)
        torch.save(loop.model.state_dict(), out / f"rank{loop.group.rank}.pt")
        return run

    Loop.fit = then_write  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
