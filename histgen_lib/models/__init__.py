"""The networks. Nothing here imports torch until a network is asked for."""

from pathlib import Path

SHIPPED_MODEL = Path(__file__).parents[1] / "pretrained" / "synthetic-he"
"""The demonstration model that comes with the package."""
