"""Everything that runs on a GPU, run once: parity with the CPU's numbers and speed, in one table.

`tests/gpu/run.sh` starts it; docs/gpu.md says what its rows mean.
"""
