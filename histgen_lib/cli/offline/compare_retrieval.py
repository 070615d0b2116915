"""`histgen compare-retrieval`: searches for cases alike on the same features, as one page of tables."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histgen_lib.cli.offline.cases import AllowMissing, MatchedCases
from histgen_lib.cli.offline.evaluate_retrieval import (
    Bootstrap,
    Queries,
    QueryBags,
    QuerySplit,
    RelevantBy,
    Truth,
)
from histgen_lib.cli.options import Model, Out, model_folder, need_train_extra, writable_file
from histgen_lib.cli.output import JsonFlag, emit_json, out

if TYPE_CHECKING:
    from histgen_lib.cli.offline.retrieval_scoring import Found, Match, Question
    from histgen_lib.evaluation.retrieval.page import Method
    from histgen_lib.models.fgcr.network import Fgcr
    from histgen_lib.models.folder import ModelFolder
    from histgen_lib.training.retrieval.settings import RetrievalSettings

_CORRECTED = "FGCR corrected"
_UNTRAINED = {"mean-features": "mean of the features", "patch-set": "patch sets (Yottixel-like)"}


def compare_retrieval(
    *,
    annotation: Queries,
    bags: QueryBags,
    train_annotation: Annotated[
        Path,
        typer.Option(
            "--train-annotation", metavar="FILE", help="annotation.json to train on; also the gallery."
        ),
    ],
    train_bags: Annotated[Path, typer.Option("--train-bags", metavar="DIR", help="Bags of its slides.")],
    out_dir: Out,
    model: Model = None,
    split: QuerySplit = "test",
    truth: Truth = None,
    train_truth: Annotated[
        Path | None, typer.Option("--train-truth", metavar="DIR", help="truth/ of the gallery's slides.")
    ] = None,
    table: Annotated[
        Path,
        typer.Option("--table", metavar="FILE", help="The page to write (Markdown).", callback=writable_file),
    ] = Path("docs/retrieval-comparison.md"),
    relevant_by: RelevantBy = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Maximum number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the training.")] = None,
    bootstrap: Bootstrap = 1000,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare searches on the same features: train those that need it, score all, and write the page.

    The retrieval network of MODEL is scored as it is. With the settings of the small preset are trained: the
    published FGCR, and the mean and gated attention over the tiles beside the same text encoder. Untrained:
    the mean of the features, and sets of patches. An interrupted run resumes.

    For example:

      histgen compare-retrieval --annotation test/annotation.json --bags test-bags --truth test/truth
      --train-annotation world/annotation.json --train-bags bags --train-truth world/truth --out runs/searches
    """
    need_train_extra("histgen compare-retrieval")
    import torch

    from histgen_lib.cli.offline.compare import command_line
    from histgen_lib.cli.offline.retrieval_scoring import Question, Side, match, read_slides, with_fields
    from histgen_lib.cores import cores
    from histgen_lib.evaluation.retrieval.page import render
    from histgen_lib.files import write_atomic
    from histgen_lib.models.folder import open_model_folder
    from histgen_lib.training.retrieval.settings import RetrievalOverrides, retrieval_preset
    from histgen_lib.training.retrieval.train import check_encoder

    torch.set_num_threads(threads or cores())
    folder, cases = open_model_folder(model_folder(model)), MatchedCases()
    queries = read_slides(Side(annotation, bags, (split,), truth), cases, allow_missing=allow_missing)
    train, val = (
        read_slides(
            Side(train_annotation, train_bags, (name,), train_truth), cases, allow_missing=allow_missing
        )
        for name in ("train", "val")
    )
    gallery = dataclasses.replace(train, examples=[*train.examples, *val.examples])
    check_encoder([*queries.examples, *gallery.examples], folder)
    question = Question(tuple(relevant_by or ("organ", "diagnosis")), None, bootstrap)
    asked = with_fields(match(queries, gallery, question, folder.retrieval.get("prompts", [])))
    base = retrieval_preset(
        "small", annotation=train_annotation, bags=train_bags, model=folder.path, out=out_dir
    )
    base = RetrievalOverrides(epochs=epochs, seed=seed).apply(dataclasses.replace(base, threads=threads))
    methods = _methods(asked, base, folder)
    facts = _facts(asked, question, split)
    command = command_line(sys.argv[1:])
    page = render(methods, command=command, facts=facts, notes=_NOTES, best=_CORRECTED, bootstrap=bootstrap)
    write_atomic(table, page.encode())
    _say(methods, table, as_json=as_json)


def _methods(asked: Match, base: RetrievalSettings, folder: ModelFolder) -> list[Method]:
    """Score each search, the simplest first."""
    from histgen_lib.cli.offline.retrieval_scoring import score_network, score_untrained
    from histgen_lib.models.fgcr.checkpoint import load_retrieval
    from histgen_lib.models.fgcr.words import load_words
    from histgen_lib.training.retrieval.embedding import Embedder
    from histgen_lib.training.retrieval.settings import in_mode

    found = [_method(_UNTRAINED[name], one) for name, one in score_untrained(asked).items()]
    trained = {
        "mean pooling + words": ("mean", dataclasses.replace(base, image="mean")),
        "attention pooling + words": ("attention", dataclasses.replace(base, image="attention")),
        "FGCR published": ("published", in_mode(base, "published")),
    }
    for name, (place, settings) in trained.items():
        found.append(_trained(name, dataclasses.replace(settings, out=base.out / place), asked))
    network = load_retrieval(folder.path)
    corrected = score_network(Embedder(network, load_words(folder)), asked)
    return [*found, _method(_CORRECTED, corrected, network, _seconds(folder))]


def _trained(name: str, settings: RetrievalSettings, asked: Match) -> Method:
    """Train a network on the gallery's own splits, and score it."""
    from histgen_lib.bags import BAG_SUFFIXES
    from histgen_lib.cli.offline.retrieval_scoring import score_network
    from histgen_lib.training.annotation import read_annotation
    from histgen_lib.training.matching import index_files, match_splits
    from histgen_lib.training.retrieval.data import slide_examples
    from histgen_lib.training.retrieval.embedding import Embedder
    from histgen_lib.training.retrieval.train import fit

    files = index_files(settings.bags, BAG_SUFFIXES)
    splits = match_splits(read_annotation(settings.annotation), ("train", "val"), files, allow_missing=True)
    train, val = (slide_examples(split.found, settings.memory_bytes) for split in splits)
    fitted = fit(settings, train, val)
    scores = score_network(Embedder(fitted.network, fitted.words), asked, regions=settings.image == "fgcr")
    return _method(name, scores, fitted.network, fitted.run.seconds)


def _method(name: str, scores: Found, network: Fgcr | None = None, seconds: float | None = None) -> Method:
    from histgen_lib.evaluation.retrieval.page import Method

    both = {"a slide's region on its lesion": scores.evidence, "that box alone": scores.box_evidence}
    return Method(
        name,
        scores.tasks,
        scores.fields,
        {kind: pairs for kind, pairs in both.items() if pairs is not None},
        sum(weight.numel() for weight in network.parameters()) if network else 0,
        None if seconds is None else seconds / 60,
    )


def _seconds(folder: ModelFolder) -> float | None:
    """Read the seconds of training from the run's metrics.csv; None if it is not there."""
    try:
        with (folder.path / "training" / "retrieval" / "metrics.csv").open(encoding="utf-8") as handle:
            return float(list(csv.DictReader(handle))[-1]["seconds"])
    except (OSError, IndexError, KeyError, ValueError):
        return None


def _facts(asked: Match, question: Question, split: str) -> Mapping[str, str]:
    intervals = f"95 %, percentile bootstrap, {question.bootstrap} resamples of the queries"
    return {
        "Queries": f"{len(asked.queries.examples)} slides of the split {split!r}, none of them trained on",
        "Gallery": f"{len(asked.gallery.examples)} slides, the train and val splits that the networks know",
        "Relevant": f"a case with the same {' and '.join(question.relevant_by)}",
        **({"Intervals": intervals} if question.bootstrap else {}),
    }


def _say(methods: list[Method], table: Path, *, as_json: bool) -> None:
    if as_json:
        listed = {
            one.name: one.tasks.to_dict()
            | {"evidence": {kind: pairs.to_dict() for kind, pairs in one.evidence.items()}}
            for one in methods
        }
        emit_json({"table": str(table), "methods": listed})
        return
    for one in methods:
        scores = (f"{task} {found['MAP@5'].estimate.value:.3f}" for task, found in one.tasks.tasks.items())
        out().print(f"{one.name}: {', '.join(scores)}", soft_wrap=True)
    out().print(f"Table in {table}", soft_wrap=True)


_NOTES = (
    "MAP@5 is, as FGCR's authors define it, the mean over the queries of the mean precision at the relevant "
    "ones of the first five hits; [evaluation.md](evaluation.md#retrieval) has all definitions.",
    "All searches see the same tile features. The two poolings have FGCR's text encoder, its alignment loss "
    "(WRA, as [training.md](training.md#the-retrieval-network) describes it) and the same budget. Published "
    "FGCR has the same sizes and budget, the authors' losses and no augmentation.",
    "Regions: late interaction, as the case index ranks. Evidence: the region most like the query's, in each "
    "of the five slides that it finds; a hit without a lesion is wrong. Chance is a random region of "
    "these hits, stated for each search.",
    "Training minutes are wall time with the threads of the command, on a machine that other work may share.",
)
