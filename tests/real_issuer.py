"""A small OpenID Connect issuer on loopback, with real keys: it publishes them and signs tokens."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "histgen"
RSA, RSA_NEXT = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def published(key_id: str, key: PrivateKeyTypes) -> dict[str, Any]:
    """Return the public half of a key, as an issuer publishes it."""
    algorithm, name = (
        (RSAAlgorithm, "RS256") if isinstance(key, rsa.RSAPrivateKey) else (ECAlgorithm, "ES256")
    )
    public = json.loads(algorithm.to_jwk(key.public_key()))
    return {**public, "kid": key_id, "use": "sig", "alg": name}


class RealIssuer:
    """`keys`: those it publishes now, by id. `fetched`: how often it was asked for them. `away`: it fails."""

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKeyTypes] = {"rsa-1": RSA, "ec-1": EC}
        self.fetched, self.away, self.called = 0, False, ""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = issuer.answer(self.path)
                self.send_response(503 if issuer.away else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/realms/lab"

    def answer(self, path: str) -> dict[str, Any]:
        """Return what is at a path: how to find the keys, or the keys."""
        if path.endswith("/openid-configuration"):
            return {"issuer": self.called or self.url, "jwks_uri": f"{self.url}/keys"}
        self.fetched += not self.away
        return {"keys": [published(key_id, key) for key_id, key in self.keys.items()]}

    def token(self, key_id: str = "rsa-1", *, key: Any = None, algorithm: str = "", **claims: Any) -> str:
        """Sign a token; a claim that is None is left out."""
        name = algorithm or ("ES256" if key_id.startswith("ec") else "RS256")
        now = int(time.time())
        told = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "scanner",
            "exp": now + 300,
            "iat": now,
            "scope": "submit",
        }
        told = {name: value for name, value in (told | claims).items() if value is not None}
        return jwt.encode(told, key or self.keys[key_id], algorithm=name, headers={"kid": key_id})

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
