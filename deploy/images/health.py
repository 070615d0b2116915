"""Asks the service of this container whether it lives (or, with the argument "readyz", whether it can work).

Standard library only, so that it starts at once. The certificate is not checked: it is this container's own.
"""

import os
import ssl
import sys
import urllib.request


def main() -> None:
    """Leave with 0 if the service answers that it does."""
    page = sys.argv[1] if len(sys.argv) > 1 else "healthz"
    port = os.environ.get("HISTGEN_PORT", "8080")
    scheme = "https" if os.environ.get("HISTGEN_TLS_CERT") else "http"
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
    )
    try:
        opener.open(f"{scheme}://127.0.0.1:{port}/{page}", timeout=5).close()
    except OSError as error:
        sys.exit(f"{page}: {error}")


if __name__ == "__main__":
    main()
