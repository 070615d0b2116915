"""Write the dashboards as JSON: `python deploy/grafana/write.py FOLDER` (make dashboards)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import broker_board
import cases_board
import pipeline_board
import slo_board
import tiler_board
import triton_board
from grafana_foundation_sdk.cog.encoder import JSONEncoder

BOARDS = (pipeline_board, broker_board, tiler_board, triton_board, slo_board, cases_board)


def main() -> None:
    """Write one file a board, named after its uid; remove files of boards that are no more."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    texts = {}
    for module in BOARDS:
        made = module.BOARD.build()
        texts[f"{made.uid}.json"] = json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
    for path in folder.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
