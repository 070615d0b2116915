"""A model folder: config, tokenizer, file names, digest. Torch-free.

config.json        name, network sizes, tiling, tile encoder, decoding, thresholds
tokenizer.json     text <-> ids
*.safetensors      weights of the report network, of the tile encoder and of the retrieval network; statistics
                   of the training domain
fgcr_words.json    the retrieval network's vocabulary, if there is one
*.onnx             the networks for ONNX Runtime (written by `histgen_lib.export`)
graphs.json        what those were made of (`graph_record`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from histgen_lib.errors import FatalError, HistgenError
from histgen_lib.files import canonical_json, json_digest, sha256_hex
from histgen_lib.models.fgcr.serving import FGCR_IMAGE_ONNX, FGCR_TEXT_ONNX
from histgen_lib.models.graph_record import check_graphs, digest_of, recorded_digests
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.serving import served_models
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX
from histgen_lib.text.tokenizers import Tokenizer, load_tokenizer

SCHEMA = 1
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "histgen.safetensors"
TILE_ENCODER_WEIGHTS = "tile_encoder.safetensors"
DOMAIN = "domain.safetensors"
RETRIEVAL_WEIGHTS = "fgcr.safetensors"
RETRIEVAL_WORDS = "fgcr_words.json"

_NOT_SETTINGS = frozenset({"name", "sha256", "file_sha256", "settings_sha256", "licence"})
"""What the section "encoder" says about an encoder that does not decide the features of given weights."""

SECTIONS = (
    "tiling", "encoder", "domain", "abstention", "calibration", "evidence", "training", "retrieval",
)  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a readable config.json. `open_model_folder` makes one."""

    path: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name in provenance."""
        return str(self.config["name"])

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on synthetic slides only; every draft says so."""
        return bool(self.config["synthetic"])

    @cached_property
    def histgen(self) -> HistGenConfig:
        """Sizes and mode of the report network."""
        return HistGenConfig.from_json(self.config["histgen"])

    @cached_property
    def decoding(self) -> DecodingSettings:
        """The settings for decoding, unless a call changes them."""
        return DecodingSettings(**self.config["decoding"])

    @property
    def tiling(self) -> Mapping[str, Any]:
        """The grid that the model was trained on: tile_px, mpp, overlap_px, min_tissue."""
        return self.section("tiling")

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The tile encoder: name, sha256 of its weights, dim, and what rebuilds it if the folder has it."""
        return self.section("encoder")

    @cached_property
    def encoder_settings(self) -> str:
        """SHA-256 of what, besides its weights, decides the encoder's features; "" if that is unknown.

        It is what config.json states; otherwise it follows from the encoder in the folder and its tiles.
        """
        stated = str(self.encoder.get("settings_sha256", ""))
        has_encoder = any((self.path / name).is_file() for name in (TILE_ENCODER_WEIGHTS, TILE_ENCODER_ONNX))
        return stated or (settings_digest(self.encoder, self.tiling) if has_encoder else "")

    def section(self, name: str) -> Mapping[str, Any]:
        """Return a section of config.json ("domain", "abstention", "calibration", …); {} if it is absent."""
        return dict(self.config.get(name) or {})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return load_tokenizer(self.path / TOKENIZER)

    @property
    def retrieval(self) -> Mapping[str, Any]:
        """The retrieval network: its sizes as "network", and what belongs to it; {} if there is none."""
        return self.section("retrieval")

    @cached_property
    def retrieval_digest(self) -> str:
        """SHA-256 of what decides the vectors of slides and texts; "" if there is no retrieval network.

        The report network is no part of it, so that a new one leaves the index of cases as it is. Without
        the weights, as in an exported repository, graphs.json says what they were. Raises
        FatalError("model-incomplete") if the vocabulary is missing, or both weights and graphs.json.
        """
        if not self.retrieval:
            return ""
        words = digest_of(self.file(RETRIEVAL_WORDS))
        content = {
            "encoder": self.encoder.get("sha256", ""),
            "settings": self.encoder_settings,
            "network": self.retrieval.get("network", {}),
            "weights": self._retrieval_weights(),
            "words": words,
        }
        return json_digest(content)

    def _retrieval_weights(self) -> str:
        path = self.path / RETRIEVAL_WEIGHTS
        return digest_of(path) if path.is_file() else recorded_digests(self.path).get(RETRIEVAL_WEIGHTS, "")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the SHA-256 of every known file present: equal digests, equal drafts."""
        return sha256_hex(canonical_json({path.name: digest_of(path) for path in self.files()}))

    def files(self) -> list[Path]:
        """Return the known files that are present: those that decide what the models answer."""
        named = (self.path / name for name in (CONFIG, TOKENIZER, DOMAIN, RETRIEVAL_WORDS))
        return [*filter(Path.is_file, named), *self.weights(), *self.graphs()]

    def graphs(self) -> list[Path]:
        """Return the ONNX files that are present, with the files of their weights."""
        names = (name for model in served_models() for name in (*model.files, *model.beside))
        return [self.path / name for name in names if (self.path / name).is_file()]

    def weights(self) -> list[Path]:
        """Return the networks' weights that are present."""
        names = (WEIGHTS, TILE_ENCODER_WEIGHTS, RETRIEVAL_WEIGHTS)
        return [self.path / name for name in names if (self.path / name).is_file()]

    def built_from(self) -> dict[str, Any]:
        """Return what config.json says about each network that the ONNX files compute, by its section."""
        described = {"histgen": self.config["histgen"]}
        if (self.path / TILE_ENCODER_ONNX).is_file():
            described["encoder"] = settings_digest(self.encoder, self.tiling)
        if any((self.path / name).is_file() for name in (FGCR_IMAGE_ONNX, FGCR_TEXT_ONNX)):
            described["retrieval"] = self.retrieval.get("network", {})
        return described

    @cached_property
    def _checked(self) -> bool:
        check_graphs(self)
        return True

    def file(self, name: str) -> Path:
        """Return the path of one of its files; an ONNX file only if all of them are those of this model.

        Raises FatalError: "model-incomplete" if it is missing, and as `check_graphs`.
        """
        path = self.path / name
        if name == TILE_ENCODER_ONNX and not (path.is_file() or (self.path / TILE_ENCODER_WEIGHTS).is_file()):
            raise FatalError(
                "model-incomplete",
                f"The model {self.path.name} has no tile encoder: it cannot read slides, only bags.",
                hint="Give bags, name its encoder with `histgen report --encoder`, or fetch the model again.",
            )
        if not path.is_file():
            raise FatalError(
                "model-incomplete",
                f"The model folder {self.path.name} has no {name}.",
                hint="Write the ONNX files with `histgen model export`, or fetch the model again.",
            )
        if path.suffix == ".onnx":
            _ = self._checked
        return path


def settings_digest(encoder: Mapping[str, Any], tiling: Mapping[str, Any]) -> str:
    """Digest what decides an encoder's features besides its weights, from sections of a config.json."""
    rebuilds = {name: value for name, value in encoder.items() if name not in _NOT_SETTINGS}
    return json_digest({**rebuilds, "tile_px": int(tiling["tile_px"]), "mpp": float(tiling["mpp"])})


def open_model_folder(path: Path | str) -> ModelFolder:
    """Read a model folder's config.json.

    Raises FatalError: "model-missing" (there is no model folder), "model-config" (config.json cannot be
    read, lacks a section, or has another schema).
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise FatalError(
            "model-missing",
            f"There is no model in {folder.name or folder}: no {CONFIG}.",
            hint="Give --model a folder written by histgen train or histgen model import-official.",
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if config["schema"] != SCHEMA:
            raise ValueError(f"schema {config['schema']}, not {SCHEMA}")
        opened = ModelFolder(folder, config)
        _ = opened.name, opened.synthetic, opened.histgen, opened.decoding
        _ = [opened.section(name) for name in SECTIONS]
        _ = opened.tiling["tile_px"], opened.tiling["mpp"]
        _ = dict(opened.retrieval.get("network", {})), dict(opened.retrieval.get("consistency") or {})
    except (OSError, ValueError, KeyError, TypeError, RecursionError, HistgenError) as error:
        raise FatalError(
            "model-config",
            f"{CONFIG} of the model {folder.name} cannot be used ({error}).",
            hint="Was it written by another version, or edited? Fetch the model again.",
        ) from error
    return opened
