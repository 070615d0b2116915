#!/usr/bin/env bash
# Runs all GPU code once and prints one table: does it agree with the CPU, and how fast is it?
#   tests/gpu/run.sh                        the published sizes on the GPU, within 5 minutes
#   tests/gpu/run.sh --small --device cpu   small sizes on the CPU, as `make test-e2e` does
# It needs Python (3.11 or later) with torch and NumPy; PYTHON names another one than the first that has them.
# With timm it measures tile encoders; with onnx, pydantic and onnxruntime (for a GPU: onnxruntime-gpu) the
# graphs; with tensorrt (or tensorrt_rtx), cuda-bindings, safetensors, tokenizers and opencv-python-headless
# the engines. What is not installed is named, and left out.
# It ends with 1 if something does not agree. Rows appear (stderr) as they are found, the table at the end.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
suits='import importlib.util as u, sys; sys.exit(sys.version_info < (3, 11) or not all(map(u.find_spec, ("torch", "numpy"))))'
python=${PYTHON:-}
for candidate in "$root/.venv/bin/python" python3 python python3.13 python3.12 python3.11; do
  [ -z "$python" ] || break
  if "$candidate" -c "$suits" 2>/dev/null; then python=$candidate; fi
done
[ -n "$python" ] || { echo "No Python (3.11 or later) here has torch and NumPy; PYTHON may name one." >&2; exit 1; }
export PYTHONPATH="$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
exec "$python" -m gpu "$@"
