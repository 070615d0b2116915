"""The processes: one folder each. They share settings and wiring, nothing else."""
