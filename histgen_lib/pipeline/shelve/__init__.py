"""Drafts, signatures and withdrawals → the case index."""
