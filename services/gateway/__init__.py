"""The gateway: new slides come in here, however they are submitted, and go out once each as slide.scanned."""

NAME = "gateway"
"""The service's name in metrics, events and files."""
