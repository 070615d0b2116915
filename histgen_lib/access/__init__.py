"""Slides by URI: where they may lie, finding them in folders, copying them from S3, checking their files."""
