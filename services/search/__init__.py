"""The search service: which cases look, or read, like this one. It writes nothing."""

NAME = "search"
"""The service's name in metrics, logs and files."""
