"""`python -m services.librarian`."""

from __future__ import annotations

from services.run import main

if __name__ == "__main__":
    main("librarian")
