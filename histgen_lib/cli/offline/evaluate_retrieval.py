"""`histgen evaluate-retrieval`: scores how well a model finds cases alike, by slides, regions and words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from histgen_lib.cli.offline.cases import AllowMissing, MatchedCases
from histgen_lib.cli.options import Model, model_folder, need_train_extra, writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out

if TYPE_CHECKING:
    from histgen_lib.cli.offline.retrieval_scoring import Found

Queries = Annotated[
    Path, typer.Option("--annotation", metavar="FILE", help="annotation.json of the slides that look.")
]
QueryBags = Annotated[Path, typer.Option("--bags", metavar="DIR", help="Bags of the slides that look.")]
QuerySplit = Annotated[
    Literal["train", "val", "test"], typer.Option("--split", help="Split of the slides that look.")
]
GalleryAnnotation = Annotated[
    Path | None,
    typer.Option(
        "--gallery-annotation",
        metavar="FILE",
        help="annotation.json of the slides to find: its train and val splits. Default: --annotation.",
    ),
]
GalleryBags = Annotated[
    Path | None,
    typer.Option("--gallery-bags", metavar="DIR", help="Bags of the slides to find. Default: --bags."),
]
Truth = Annotated[
    Path | None,
    typer.Option("--truth", metavar="DIR", help="truth/ of histgen synth; also scores the evidence."),
]
GalleryTruth = Annotated[
    Path | None, typer.Option("--gallery-truth", metavar="DIR", help="That of the slides to find.")
]
RelevantBy = Annotated[
    list[str] | None,
    typer.Option(
        "--relevant-by",
        metavar="FIELD",
        help="Field of the reports that has to be equal; can be repeated. Default: organ and diagnosis.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="FILE", help='Labels instead of fields: JSON {"id": "label"}, or CSV id,label.'
    ),
]
Bootstrap = Annotated[
    int, typer.Option("--bootstrap", min=0, help="Bootstrap resamples for 95 % intervals; 0: none.")
]


def evaluate_retrieval(
    *,
    annotation: Queries,
    bags: QueryBags,
    model: Model = None,
    split: QuerySplit = "test",
    gallery_annotation: GalleryAnnotation = None,
    gallery_bags: GalleryBags = None,
    truth: Truth = None,
    gallery_truth: GalleryTruth = None,
    relevant_by: RelevantBy = None,
    labels: Labels = None,
    bootstrap: Bootstrap = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resampling.")] = 0,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Also write retrieval.json.", callback=writable_folder
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Cores to use; 0: all.")] = 0,
    allow_missing: AllowMissing = False,
    as_json: JsonFlag = False,
) -> None:
    """Score a model's retrieval network: slides and reports of a split look for those of train and val.

    Figures: P@k (any hit), ACC@k, MAP@k, recall@k, nDCG@k and the Jaccard index of the prompts, each beside
    chance; with --truth also how often evidence lies on the lesion. Needs the train extra.

    For example:

      histgen evaluate-retrieval --annotation test/annotation.json --bags test-bags --truth test/truth
      --gallery-annotation world/annotation.json --gallery-bags bags --gallery-truth world/truth
    """
    need_train_extra("histgen evaluate-retrieval")
    import torch

    from histgen_lib.cli.offline.retrieval_scoring import Question, Side, match, read_slides, score_network
    from histgen_lib.cores import cores
    from histgen_lib.files import canonical_json, write_atomic
    from histgen_lib.models.fgcr.checkpoint import load_retrieval
    from histgen_lib.models.fgcr.words import load_words
    from histgen_lib.models.folder import open_model_folder
    from histgen_lib.training.retrieval.embedding import Embedder
    from histgen_lib.training.retrieval.train import check_encoder

    torch.set_num_threads(threads or cores())
    folder = open_model_folder(model_folder(model))
    embedder = Embedder(load_retrieval(folder.path), load_words(folder))
    cases = MatchedCases()
    queries = read_slides(Side(annotation, bags, (split,), truth), cases, allow_missing=allow_missing)
    found = Side(
        gallery_annotation or annotation, gallery_bags or bags, ("train", "val"), gallery_truth or truth
    )
    gallery = read_slides(found, cases, allow_missing=allow_missing)
    check_encoder([*queries.examples, *gallery.examples], folder)
    question = Question(tuple(relevant_by or ("organ", "diagnosis")), labels, bootstrap, seed)
    asked = match(queries, gallery, question, folder.retrieval.get("prompts", []))
    scores = score_network(embedder, asked)
    content = {
        "model": str(folder.path),
        "gallery": len(gallery.examples),
        "relevant_by": list(question.relevant_by) if labels is None else str(labels),
        "bootstrap": {"resamples": bootstrap, "seed": seed, "interval": 0.95},
        **scores.to_dict(),
    }
    if out_dir is not None:
        write_atomic(out_dir / "retrieval.json", canonical_json(content))
    if as_json:
        emit_json(content)
    else:
        _print(scores, content)


def _print(scores: Found, content: dict[str, Any]) -> None:
    from rich.table import Table

    title = f"{content['queries']} queries, gallery of {content['gallery']} slides; value (chance)"
    names = list(next(iter(scores.tasks.tasks.values())))
    table = Table("Figure", *scores.tasks.tasks, title=title, title_justify="left")
    for name in names:
        cells = (task[name] for task in scores.tasks.tasks.values())
        table.add_row(name, *(f"{cell.estimate.value:.3f} ({cell.chance:.3f})" for cell in cells))
    out().print(table)
    for name, pairs in (("a region of the slide", scores.evidence), ("its box alone", scores.box_evidence)):
        if pairs is not None:
            out().print(
                f"Evidence by {name}: on the lesion {pairs.meets.estimate.value:.1%} (chance "
                f"{pairs.meets.chance:.1%}), mostly on it {pairs.mostly.estimate.value:.1%} (chance "
                f"{pairs.mostly.chance:.1%}), of {pairs.pairs} pairs",
                soft_wrap=True,
            )
