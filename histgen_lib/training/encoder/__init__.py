"""Training the small tile encoder on synthetic slides, and encoding slides with it in bulk."""
