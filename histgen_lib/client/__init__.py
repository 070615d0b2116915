"""Talking to a stack that runs, here or elsewhere."""
