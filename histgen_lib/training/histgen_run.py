"""`train`: a folder of bags and an annotation file in, a model folder out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model, update_config
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.slides import TilingSettings
from histgen_lib.text.bpe import BpeTokenizer
from histgen_lib.text.tokenizers import Tokenizer
from histgen_lib.text.word import WordTokenizer
from histgen_lib.training.annotation import BAG_SUFFIXES, Case, index_files, read_annotation, require_matches
from histgen_lib.training.data import Example, make_examples, require_same_encoder
from histgen_lib.training.distributed import Group, joined
from histgen_lib.training.encoder_folder import EncoderFolder, open_encoder
from histgen_lib.training.finish import calibrate_model
from histgen_lib.training.loop import Loop
from histgen_lib.training.settings import TrainSettings
from histgen_lib.training.start import network_inputs, scale_start
from histgen_lib.training.state import RunState
from histgen_lib.training.tile_heads import load_heads
from histgen_lib.training.validate import Validator


@dataclass(frozen=True)
class TrainResult:
    """The model folder, validation scores of its weights, seconds of training, the rows of metrics.csv."""

    folder: Path
    best: dict[str, float]
    seconds: float
    rows: tuple[dict[str, float], ...]


def train(
    settings: TrainSettings, *, quiet: bool = False, after_step: Callable[[RunState], None] = lambda run: None
) -> TrainResult:
    """Train, or go on training where settings.out holds an unfinished run; leave a calibrated model folder.

    Under torchrun every process calls this; rank 0 writes. The test split is not looked at.
    Raises InvalidInputError: "training-settings", "training-annotation-unreadable", "training-bags-missing",
    "training-bags-differ", "training-state-differs", "training-device-missing", "training-float16-cpu".
    """
    check_settings(settings)
    torch.set_num_threads(settings.threads or _threads())
    with joined(settings.device) as group:
        torch.manual_seed(settings.seed)
        train_pairs, val_pairs = _pairs(settings)
        tokenizer = make_tokenizer(settings, [case.report for case, _ in train_pairs])
        limits = (settings.sizes.max_tokens, settings.memory_bytes)
        examples = make_examples(train_pairs, tokenizer, *limits)
        held_out = make_examples(val_pairs, tokenizer, *limits)
        encoder = open_encoder(settings.encoder) if settings.encoder else None
        require_same_encoder([*examples, *held_out], encoder.sha256 if encoder else "")
        model = _start(settings, tokenizer, examples).to(group.device)
        validator = Validator(settings, held_out, tokenizer, group.device)
        loop = Loop(
            settings,
            model,
            examples,
            validator,
            group,
            settings.out / "training",
            quiet=quiet,
            after_step=after_step,
        )
        loop.resume()
        run = loop.fit()
        if group.leads:
            model.load_state_dict(run.best_weights)
            _write(settings, model, tokenizer, examples, validator)
            _note_origin(settings, len(examples))
        _wait(group)
    return TrainResult(settings.out, run.best, run.seconds, tuple(run.rows))


def check_settings(settings: TrainSettings) -> None:
    """InvalidInputError("training-settings") for numbers with which no run can be made."""
    least = {"epochs": 1, "batch_size": 1, "patience_epochs": 1, "decode_every": 1, "decode_limit": 1}
    wrong = [f"{name} must be at least {low}" for name, low in least.items() if getattr(settings, name) < low]
    wrong += [] if settings.learning_rate > 0 else ["learning_rate must be above 0"]
    if wrong:
        raise InvalidInputError(
            "training-settings", f"This run cannot be made: {'; '.join(wrong)}.", hint="Mend the settings."
        )


def make_tokenizer(settings: TrainSettings, reports: list[str]) -> Tokenizer:
    """Train the tokenizer of the settings' kind, on the training reports alone."""
    if settings.tokenizer == "bpe":
        return BpeTokenizer.train(reports, vocab_size=settings.bpe_vocab_size)
    return WordTokenizer.train(reports, threshold=settings.word_threshold)


def model_config(settings: TrainSettings, input_dim: int, vocab_size: int) -> HistGenConfig:
    """Describe the network of the settings; a mean-pooled one is a corrected one that gets a single tile."""
    sizes = asdict(settings.sizes)
    return HistGenConfig(
        mode="published" if settings.variant == "published" else "corrected",
        input_dim=input_dim,
        vocab_size=vocab_size,
        cmm_dim=settings.sizes.d_model,
        **sizes,
    )


def _pairs(settings: TrainSettings) -> tuple[list[tuple[Case, Path]], list[tuple[Case, Path]]]:
    annotation = read_annotation(settings.annotation)
    files = index_files(settings.bags, BAG_SUFFIXES)
    found = [require_matches(name, annotation.split(name), files, settings.bags) for name in ("train", "val")]
    return found[0], found[1]


def _start(settings: TrainSettings, tokenizer: Tokenizer, examples: list[Example]) -> HistGen:
    width = examples[0].load().features.shape[1]
    model = HistGen(model_config(settings, width, tokenizer.vocab_size))
    if settings.scaled_start:
        heads = load_heads(settings.encoder) if settings.encoder else None
        sample = network_inputs(examples, settings.variant, settings.seed)
        scale_start(model, sample, heads[0] if heads else None)
    return model


def _write(
    settings: TrainSettings,
    model: HistGen,
    tokenizer: Tokenizer,
    examples: list[Example],
    validator: Validator,
) -> None:
    """Write the model folder, calibrated on the validation split."""
    bag = examples[0].load()
    encoder = open_encoder(settings.encoder) if settings.encoder else None
    width = int(bag.features.shape[1])
    described = {"name": bag.encoder_name, "sha256": bag.encoder_sha256, "dim": width}
    made = new_model_folder(
        settings.out,
        name=settings.name,
        synthetic=settings.synthetic,
        config=model.config,
        tokenizer=tokenizer,
        tiling=_tiling(encoder, bag.tile_px, bag.mpp),
        tile_encoder=encoder.load() if encoder else None,
        encoder=described,
        decoding=DecodingSettings(beam_size=settings.beam_size, max_tokens=model.config.max_tokens),
    )
    if encoder:
        update_config(settings.out, encoder=dict(made.encoder) | {"name": encoder.name})
    save_model(settings.out, model)
    calibrate_model(settings.out, model, examples, validator)


def _tiling(encoder: EncoderFolder | None, tile_px: int, mpp: float) -> dict[str, Any]:
    """How slides are to be cut for this model; known from the bags where the encoder is not ours."""
    if encoder:
        return asdict(encoder.tiling)
    known = {"tile_px": tile_px, "mpp": mpp} if tile_px and not math.isnan(mpp) else {}
    return asdict(TilingSettings()) | known


def _note_origin(settings: TrainSettings, slides: int) -> None:
    """Say in config.json how the weights came about. Nothing of it depends on the machine."""
    budget = {"epochs": settings.epochs, "batch_size": settings.batch_size, "slides": slides}
    origin = {"variant": settings.variant, "seed": settings.seed, **budget}
    update_config(settings.out, training=origin)


def _threads() -> int:
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _wait(group: Group) -> None:
    """Hold the other processes until rank 0 has written the folder."""
    group.share([0.0])
