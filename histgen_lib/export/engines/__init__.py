"""Compiling a model folder's networks to engines of TensorRT or TensorRT-RTX (docs/engines.md)."""
