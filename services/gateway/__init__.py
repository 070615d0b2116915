"""The gateway: whatever tells of a new slide comes in here; each slide goes out once, as slide.scanned."""
