"""The models: networks, their folder on disk, and how they are served. Torch loads only with a network."""

from pathlib import Path

SHIPPED_MODEL = Path(__file__).parents[1] / "pretrained" / "synthetic-he"
"""The demonstration model in this package."""
