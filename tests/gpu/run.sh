#!/usr/bin/env bash
# Runs all GPU code once and prints one table: does it agree with the CPU, and how fast is it?
#   tests/gpu/run.sh                        the published sizes on the GPU, within 5 minutes
#   tests/gpu/run.sh --small --device cpu   small sizes on the CPU, as `make test` does
# It needs Python with torch and NumPy. With timm it measures tile encoders; with onnx and onnxruntime (for a
# GPU: onnxruntime-gpu) the graphs; with tensorrt (or tensorrt_rtx), cuda-bindings, pydantic, safetensors,
# tokenizers and opencv-python-headless the engines. What is not installed is named, and left out.
# It ends with 1 if something does not agree.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m gpu "$@"
