"""Compiled networks: engines of TensorRT and of TensorRT-RTX, what is known of each, and how they are run.

A compiled model is a folder of engines beside the model's other files:

<model>/engines/<flavour>/<name>.engine        what TensorRT compiled
<model>/engines/<flavour>/<name>.json          its `EngineRecord`: of what it was made, for what, and by what
<model>/engines/<flavour>/<name>.safetensors   recorded inputs, and the outputs of ONNX Runtime (`gate`)

`histgen_lib.export.engines` makes them (docs/engines.md).
"""
