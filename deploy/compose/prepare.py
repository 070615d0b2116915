"""Makes the folders and secrets of deploy/compose.yaml in its volume; what is there already stays.

Each container is shown one folder below secrets/, and no other. Standard library only.
"""

import base64
import json
import os
import secrets
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

USER = "histgen"
FOLDERS = (
    "gateway",
    "kafka",
    "models",
    "models/engines",
    "objects/case-index",
    "objects/histgen",
    "objects/scans",
    "prometheus",
    "grafana",
)
"""A folder below objects/ is a bucket."""


def main(volume: Path) -> None:
    """Make all of it."""
    os.umask(0o077)
    for name in FOLDERS:
        (volume / name).mkdir(parents=True, exist_ok=True)
    place = volume / "secrets"
    password, key, triton = (kept(place / "all" / name) for name in ("kafka", "s3", "triton"))
    properties = (Path(__file__).parent / "kafka.properties").read_text().replace("@PASSWORD@", password)
    login = {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": USER,
        "sasl_plain_password": password,
    }
    aws = f"[default]\naws_access_key_id = {USER}\naws_secret_access_key = {key}\n"
    contents = {
        "services/token": kept(place / "all" / "token"),
        "services/kafka.json": json.dumps(login),
        "services/aws": aws,
        "services/triton": triton,
        "kafka/password": password,
        "kafka/cluster": kept(place / "all" / "cluster", new_cluster),
        "kafka/server.properties": properties,
        "s3/id": USER,
        "s3/key": key,
        "triton/secret": triton,
        "exporter/password": password,
        "grafana/password": kept(place / "all" / "grafana"),
    }
    for name, text in contents.items():
        write(place / name, text)
    print("folders and secrets are there")


def new_secret() -> str:
    """Return 64 hexadecimal digits."""
    return secrets.token_hex(32)


def new_cluster() -> str:
    """Return a name for Kafka's cluster; without a dash, which at its start would make it an option."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")


def kept(path: Path, new: Callable[[], str] = new_secret) -> str:
    """Return what a file holds; something new if there is none."""
    if not path.exists():
        write(path, new())
    return path.read_text()


def write(path: Path, text: str) -> None:
    """Write a file whole, for its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
