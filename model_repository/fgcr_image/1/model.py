"""The fgcr_image model for Triton's Python backend."""

import os
import sys

# The backend's Python ignores PYTHONPATH. At the end: numpy has to be that of its own environment.
sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))

from histgen_lib.inference.triton_backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
