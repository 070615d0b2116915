"""Slides by URI: where they may lie, fetching those that lie in S3, the files that belong to them."""
