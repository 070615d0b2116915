"""A real Prometheus with the shipped rules and configuration, which scrapes and evaluates every second."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml

from histgen_lib.stack.children import dying_with_parent

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "helm" / "histgen" / "files" / "rules"
BINARIES = ROOT / ".local" / "prometheus" / "usr" / "bin"


class Prometheus:
    """A server in the folder of a stream or stack, set up as deploy/prometheus/prometheus.yml says."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(RULES, folder / "rules")
        config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._client = httpx.Client(base_url=f"http://{address}", timeout=10)
        options = [f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent(
                    [str(BINARIES / "prometheus"), f"--config.file={folder / 'prometheus.yml'}", *options]
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; [] while the server is not ready. A wrong expression fails."""
        try:
            answer = self._client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return []
        assert answer.status_code == httpx.codes.OK, f"{expression}: {answer.text}"
        found = answer.json()["data"]
        assert found["resultType"] == "vector", f"{expression} is a {found['resultType']}"
        return list(found["result"])

    def numbers(self, expression: str) -> list[float]:
        """Evaluate an expression to numbers; those that are none are left out."""
        values = [float(found["value"][1]) for found in self.query(expression)]
        return [value for value in values if not math.isnan(value)]

    def firing(self) -> list[str]:
        """Name the alerts that fire now."""
        return [found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')]

    def raised(self, alert: str, **labels: str) -> bool:
        """Whether an alert fires, or is pending because its condition holds and has to hold for minutes."""
        pairs = "".join(f', {name}="{value}"' for name, value in labels.items())
        return bool(self.query(f'ALERTS{{alertname="{alert}"{pairs}}}'))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._client.close()
