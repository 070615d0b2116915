"""`python -m services.search`."""

from __future__ import annotations

import os

from services.run import main

if __name__ == "__main__":
    # NumPy, loaded later, takes one thread for a product: many are small, and several searches run at a time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main("search")
