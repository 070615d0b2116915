"""Asks the tritonserver of this container whether all its models are ready, by gRPC: it serves no HTTP."""

import sys

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Leave with 0 if they are."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001"
    try:
        with InferenceServerClient(address) as client:
            ready = client.is_server_ready(client_timeout=5)
    except InferenceServerException as error:
        sys.exit(f"no answer: {error.message()}")
    sys.exit(0 if ready else "not ready")


if __name__ == "__main__":
    main()
