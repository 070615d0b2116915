"""What `helm test` runs: every web service is ready, and its status is locked.

A release that was just installed is asked again until it is so, for $PATIENCE_S seconds.
"""

import os
import ssl
import sys
import time
import urllib.error
import urllib.request

context = ssl.create_default_context(cafile=os.environ.get("CA_FILE"))


def answer(url: str) -> int:
    """Return the status with which a page without a token is answered; 0 if there is no answer."""
    try:
        return int(urllib.request.urlopen(url, timeout=10, context=context).status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        print(f"{url}: {error}")
        return 0


wanted = {url + page: code for url in sys.argv[1:] for page, code in {"/readyz": 200, "/status": 401}.items()}
end = time.monotonic() + float(os.environ.get("PATIENCE_S", "180"))
while (found := {url: answer(url) for url in wanted}) != wanted and time.monotonic() < end:
    time.sleep(2)
for url, code in wanted.items():
    print(f"{url}: {found[url]}, {code} expected")
sys.exit(found != wanted)
