"""Talking to a running stack, on this machine or elsewhere."""
