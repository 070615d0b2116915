"""Commands that need no running stack: drafting, training, scoring, and checking an installation."""
