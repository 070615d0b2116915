"""What `helm test` runs: every web service is ready, and its status is locked."""

import os
import ssl
import sys
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


wanted = {"/readyz": 200, "/status": 401}
found = {url + page: (answer(url + page), code) for url in sys.argv[1:] for page, code in wanted.items()}
for page, (status, code) in found.items():
    print(f"{page}: {status}, {code} expected")
sys.exit(any(status != code for status, code in found.values()))
