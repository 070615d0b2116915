"""`train`: from a folder of bags and an annotation file to a model folder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from histgen_lib.bags import BAG_SUFFIXES, Bag, Maker, maker_of
from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model, update_config
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.slides import TilingSettings
from histgen_lib.text.tokenizers import BpeTokenizer, Tokenizer, WordTokenizer
from histgen_lib.training.annotation import read_annotation
from histgen_lib.training.checkpoint import RunState
from histgen_lib.training.data import Example, make_examples, require_same_encoder
from histgen_lib.training.distributed import Group, joined
from histgen_lib.training.encoder.folder import load_heads
from histgen_lib.training.encoder.source import OpenedEncoder
from histgen_lib.training.matching import Matching, index_files, match_splits
from histgen_lib.training.report.calibration import calibrate_model
from histgen_lib.training.report.loop import Loop
from histgen_lib.training.report.settings import TrainSettings
from histgen_lib.training.report.small_data import network_inputs, scale_start
from histgen_lib.training.report.validation import Validator

_MOST_UNKNOWN = 0.2
"""Share of the training words: with every fifth word missing, a report can be neither written nor scored."""


@dataclass(frozen=True)
class TrainResult:
    """The model folder, validation scores of its weights, seconds of training, and the rows of metrics.csv.

    `cases` are the training and the validation split as matched with bags.
    """

    folder: Path
    best: dict[str, float]
    seconds: float
    rows: tuple[dict[str, float], ...]
    cases: tuple[Matching, ...] = ()


def train(
    settings: TrainSettings,
    *,
    quiet: bool = False,
    after_step: Callable[[RunState], None] = lambda run: None,
    on_matched: Callable[[Sequence[Matching]], None] = lambda cases: None,
) -> TrainResult:
    """Train, or resume an unfinished run in settings.out; write a calibrated model folder.

    Under torchrun every process calls this; rank 0 writes, and before any work calls `on_matched` with the
    cases that will be used. Of the test split only the names are read.
    Raises InvalidInputError: "training-settings", those of `read_annotation` and `match_splits`,
    "training-vocabulary-poor", "training-bags-differ", "training-state-differs", "training-device-missing",
    "training-float16-cpu".
    """
    check_settings(settings)
    torch.set_num_threads(settings.threads or _threads())
    with joined(settings.device) as group:
        torch.manual_seed(settings.seed)
        cases = _cases(settings)
        if group.leads:
            on_matched(cases)
        tokenizer = make_tokenizer(settings, [found.case.report for found in cases[0].found])
        limits = (settings.sizes.max_tokens, settings.memory_bytes)
        examples, held_out = (make_examples(split.found, tokenizer, *limits) for split in cases)
        encoder = settings.encoder.open() if settings.encoder else None
        require_same_encoder([*examples, *held_out], encoder.maker if encoder else None)
        model = _start(settings, tokenizer, examples, encoder).to(group.device)
        validator = Validator(settings, held_out, tokenizer, group.device)
        loop = Loop(
            settings,
            model,
            examples,
            validator,
            group,
            settings.run_folder,
            quiet=quiet,
            after_step=after_step,
        )
        loop.resume()
        run = loop.fit()
        if group.leads:
            model.load_state_dict(run.best_weights)
            _write(settings, model, tokenizer, examples, validator, encoder=encoder)
            _note_origin(settings, len(examples))
        _wait(group)
    return TrainResult(settings.out, run.best, run.seconds, tuple(run.rows), tuple(cases))


def check_settings(settings: TrainSettings) -> None:
    """Raise InvalidInputError("training-settings") for numbers that no run can use."""
    least = {"epochs": 1, "batch_size": 1, "patience_epochs": 1, "decode_every": 1, "decode_limit": 1}
    wrong = [f"{name} must be at least {low}" for name, low in least.items() if getattr(settings, name) < low]
    wrong += [] if settings.learning_rate > 0 else ["learning_rate must be above 0"]
    if wrong:
        raise InvalidInputError(
            "training-settings", f"These settings are not valid: {'; '.join(wrong)}.", hint="Correct them."
        )


def make_tokenizer(settings: TrainSettings, reports: list[str]) -> Tokenizer:
    """Train the settings' kind of tokenizer on the training reports alone.

    InvalidInputError("training-vocabulary-poor") if more than a fifth of the words would be unknown.
    """
    if settings.tokenizer == "bpe":
        return BpeTokenizer.train(reports, vocab_size=settings.bpe_vocab_size)
    tokenizer = WordTokenizer.train(reports, threshold=settings.word_threshold)
    unknown, words = tokenizer.unknown_share(reports)
    if unknown > _MOST_UNKNOWN:
        raise InvalidInputError(
            "training-vocabulary-poor",
            f"{unknown:.0%} of the {words} words in the {len(reports)} training reports would be unknown: "
            f"only {tokenizer.vocab_size - 1} different words occur {settings.word_threshold} times or more.",
            hint="Use more reports, --tokenizer bpe (which knows every word), or a smaller --min-count.",
        )
    return tokenizer


def model_config(settings: TrainSettings, input_dim: int, vocab_size: int) -> HistGenConfig:
    """Describe the network of the settings; "mean-pooled" is the corrected network on a single tile."""
    sizes = asdict(settings.sizes)
    return HistGenConfig(
        mode="published" if settings.variant == "published" else "corrected",
        input_dim=input_dim,
        vocab_size=vocab_size,
        cmm_dim=settings.sizes.d_model,
        **sizes,
    )


def _cases(settings: TrainSettings) -> list[Matching]:
    """Match the training and the validation split."""
    annotation, files = read_annotation(settings.annotation), index_files(settings.bags, BAG_SUFFIXES)
    return match_splits(annotation, ("train", "val"), files, allow_missing=settings.allow_missing)


def _start(
    settings: TrainSettings, tokenizer: Tokenizer, examples: list[Example], encoder: OpenedEncoder | None
) -> HistGen:
    width = examples[0].load()[0].features.shape[1]
    model = HistGen(model_config(settings, width, tokenizer.vocab_size))
    if settings.scaled_start:
        heads = load_heads(encoder.folder.path) if encoder and encoder.folder else None
        sample = network_inputs(examples, settings.arrangement, settings.seed)
        scale_start(model, sample, heads[0] if heads else None)
    return model


def _write(
    settings: TrainSettings,
    model: HistGen,
    tokenizer: Tokenizer,
    examples: list[Example],
    validator: Validator,
    *,
    encoder: OpenedEncoder | None,
) -> None:
    """Write the model folder, calibrated on the validation split."""
    bag = examples[0].load()[0]
    new_model_folder(
        settings.out,
        name=settings.name,
        synthetic=settings.synthetic,
        config=model.config,
        tokenizer=tokenizer,
        tiling=asdict(encoder.tiling) if encoder else _tiling_of(bag),
        tile_encoder=encoder.load() if encoder else None,
        encoder=encoder.section if encoder else _section_of(maker_of(bag)),
        decoding=DecodingSettings(beam_size=settings.beam_size, max_tokens=model.config.max_tokens),
    )
    save_model(settings.out, model)
    calibrate_model(settings.out, model, examples, validator)


def _section_of(maker: Maker) -> dict[str, Any]:
    """Return what bags alone state about their encoder."""
    stated = {"settings_sha256": maker.settings} if maker.settings else {}
    return {"name": maker.name, "sha256": maker.sha256, "dim": maker.width, **stated}


def _tiling_of(bag: Bag) -> dict[str, Any]:
    """Return how to tile slides for this model, as far as its bags state it."""
    known = {"tile_px": bag.tile_px, "mpp": bag.mpp} if bag.tile_px and not math.isnan(bag.mpp) else {}
    return asdict(TilingSettings()) | known


def _note_origin(settings: TrainSettings, slides: int) -> None:
    """Write to config.json how the weights were trained. Nothing in it depends on the machine."""
    budget = {"epochs": settings.epochs, "batch_size": settings.batch_size, "slides": slides}
    origin = {"variant": settings.variant, "seed": settings.seed, **budget}
    update_config(settings.out, training=origin)


def _threads() -> int:
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _wait(group: Group) -> None:
    """Make the other processes wait until rank 0 has written the folder."""
    group.share([0.0])
