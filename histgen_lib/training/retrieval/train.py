"""`train_retrieval`: from bags and reports to the retrieval network of a model folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from histgen_lib.bags import BAG_SUFFIXES, Maker
from histgen_lib.cores import cores
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.devices import torch_device
from histgen_lib.models.fgcr.checkpoint import save_retrieval
from histgen_lib.models.fgcr.config import FgcrConfig
from histgen_lib.models.fgcr.network import Fgcr
from histgen_lib.models.fgcr.prompts import mine_prompts
from histgen_lib.models.fgcr.words import Words
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.training.annotation import read_annotation
from histgen_lib.training.checkpoint import RunState
from histgen_lib.training.data import Example, require_same_encoder
from histgen_lib.training.matching import Matching, index_files, match_splits
from histgen_lib.training.retrieval.baselines import losses_of, make_network
from histgen_lib.training.retrieval.consistency import fit_consistency, score_lines
from histgen_lib.training.retrieval.data import Batcher, SlideExample, slide_examples
from histgen_lib.training.retrieval.loop import RetrievalLoop
from histgen_lib.training.retrieval.settings import RetrievalSettings
from histgen_lib.training.retrieval.validation import Validator

_MOST_UNKNOWN = 0.2


@dataclass(frozen=True)
class RetrievalResult:
    """The network with its words and prompts, validation scores, seconds, and the rows of metrics.csv.

    `folder` is the model folder that holds it. `cases` are the training and the validation split as matched.
    """

    folder: Path
    network: Fgcr
    words: Words
    prompts: tuple[str, ...]
    best: dict[str, float]
    seconds: float
    rows: tuple[dict[str, float], ...]
    cases: tuple[Matching, ...] = ()


def train_retrieval(
    settings: RetrievalSettings,
    *,
    quiet: bool = False,
    after_step: Callable[[RunState], None] = lambda run: None,
    on_matched: Callable[[Sequence[Matching]], None] = lambda cases: None,
) -> RetrievalResult:
    """Train, or resume an unfinished run in settings.out; write the model folder with the network in it.

    settings.out becomes a copy of settings.model with the network, or is that folder itself. Of the test
    split only the names are read. ONNX files are not written. Raises InvalidInputError: "training-settings",
    those of `read_annotation` and `match_splits`, "training-vocabulary-poor", "training-bags-differ",
    "training-state-differs", "prompts-none"; and as `open_model_folder`.
    """
    check_settings(settings)
    torch.set_num_threads(settings.threads or cores())
    model = open_model_folder(settings.model)
    annotation, files = read_annotation(settings.annotation), index_files(settings.bags, BAG_SUFFIXES)
    cases = match_splits(annotation, ("train", "val"), files, allow_missing=settings.allow_missing)
    on_matched(cases)
    train, held_out = (slide_examples(split.found, settings.memory_bytes) for split in cases)
    check_encoder([*train, *held_out], model)
    fitted = fit(settings, train, held_out, quiet=quiet, after_step=after_step)
    copy_model(model, settings.out)
    lines = score_lines(fitted.network, fitted.train, fitted.held_out)
    save_retrieval(
        settings.out,
        fitted.network,
        fitted.words,
        half=True,
        prompts=list(fitted.prompts),
        consistency=fit_consistency(lines).to_config(),
        training=origin(settings, len(train), fitted.run.best),
    )
    run = fitted.run
    return RetrievalResult(
        settings.out,
        fitted.network,
        fitted.words,
        fitted.prompts,
        run.best,
        run.seconds,
        tuple(run.rows),
        tuple(cases),
    )


@dataclass(frozen=True)
class Fitted:
    """A network with its best weights, rounded to float16, and what it was fitted with."""

    network: Fgcr
    words: Words
    prompts: tuple[str, ...]
    train: Batcher
    held_out: Batcher
    run: RunState


def fit(
    settings: RetrievalSettings,
    train: Sequence[SlideExample],
    held_out: Sequence[SlideExample],
    *,
    quiet: bool = False,
    after_step: Callable[[RunState], None] = lambda run: None,
) -> Fitted:
    """Fit words, prompts and network to the examples; the run's own files go to settings.run_folder."""
    reports = [example.report for example in train]
    words, prompts = make_words(settings, reports), mine_prompts(reports, settings.prompts)
    width = train[0].load().features.shape[1]
    sizes = {"input_dim": width, "vocab_size": words.vocab_size, "prompt_num": len(prompts)}
    config = replace(settings.network, **sizes)
    device = torch_device(settings.device)
    torch.manual_seed(settings.seed)
    network = make_network(settings.image, config).to(device)
    seen, asked = (_batcher(settings, some, words, prompts, config) for some in (train, held_out))
    loop = RetrievalLoop(
        settings,
        network,
        lambda one, batch: losses_of(one, batch, settings.losses),
        Validator(seen, asked),
        settings.run_folder,
        quiet=quiet,
        after_step=after_step,
    )
    loop.resume()
    run = loop.fit()
    network.load_state_dict({name: value.half().float() for name, value in run.best_weights.items()})
    return Fitted(network.eval(), words, prompts, seen, asked, run)


def check_settings(settings: RetrievalSettings) -> None:
    """Raise InvalidInputError("training-settings") for numbers that no run can use."""
    least = {"epochs": 1, "batch_size": 2, "patience_epochs": 1, "prompts": 1, "word_threshold": 1, "seed": 0}
    wrong = [f"{name} must be at least {low}" for name, low in least.items() if getattr(settings, name) < low]
    wrong += [] if settings.learning_rate > 0 else ["learning_rate must be above 0"]
    if wrong:
        raise InvalidInputError(
            "training-settings", f"These settings are not valid: {'; '.join(wrong)}.", hint="Correct them."
        )


def check_encoder(examples: Sequence[SlideExample], model: ModelFolder) -> None:
    """Require that the model's own tile encoder made all bags. InvalidInputError("training-bags-differ")."""
    maker = Maker("", str(model.encoder.get("sha256", "")), model.histgen.input_dim, model.encoder_settings)
    stated = [
        Example(one.id, one.report, (one.path,), (), held=(one.held,) if one.held else ()) for one in examples
    ]
    require_same_encoder(stated, maker)


def make_words(settings: RetrievalSettings, reports: Sequence[str]) -> Words:
    """Collect the words of the training reports.

    InvalidInputError("training-vocabulary-poor") if more than a fifth of all words would be unknown.
    """
    words = Words.train(reports, least=settings.word_threshold, limit=settings.network.max_words)
    unknown = words.unknown_share(reports)
    if unknown > _MOST_UNKNOWN:
        raise InvalidInputError(
            "training-vocabulary-poor",
            f"{unknown:.0%} of the words in the {len(reports)} training reports would be unknown: they occur "
            f"less than {settings.word_threshold} times.",
            hint="Use more reports, or a smaller --min-count.",
        )
    return words


def copy_model(model: ModelFolder, out: Path) -> None:
    """Copy a model folder's files to `out`, unless it is that folder."""
    if out.exists() and out.samefile(model.path):
        return
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(model.path.iterdir()):
        if path.is_file():
            shutil.copy2(path, out / path.name)


def origin(settings: RetrievalSettings, slides: int, best: dict[str, float]) -> dict[str, Any]:
    """Return what config.json says about the training; nothing in it depends on the machine."""
    budget = {"epochs": settings.epochs, "batch_size": settings.batch_size, "slides": slides}
    scores = {name: round(value, 4) for name, value in best.items() if math.isfinite(value)}
    return {"mode": settings.network.mode, "seed": settings.seed, **budget, "validation": scores}


def _batcher(
    settings: RetrievalSettings,
    examples: Sequence[SlideExample],
    words: Words,
    prompts: tuple[str, ...],
    config: FgcrConfig,
) -> Batcher:
    return Batcher(
        examples,
        words,
        prompts,
        config,
        settings.augment,
        settings.hidden_words,
        settings.seed,
        torch_device(settings.device),
    )
