"""A Triton model repository: one folder a model, each written all at once.

<out>/<model>/config.pbtxt   the model's tensors, and how requests are batched
<out>/<model>/1/…            what the target's backend loads
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.export.config_pbtxt import config_text
from histgen_lib.export.hosting import Choices, Hosting, Order, Target
from histgen_lib.files import umask
from histgen_lib.models.folder import ModelFolder
from histgen_lib.models.serving import hosted_models, served_models

CONFIG_PBTXT = "config.pbtxt"


def write_repository(folder: ModelFolder, repository: Path, target: Target, choices: Choices) -> Path:
    """Write all models of a folder into a repository, each all at once; return the repository.

    One that the folder does not have, though an earlier export wrote it, is removed.

    Raises, before anything is written, as `Target.order` and the target's `host` do, and
    InvalidInputError("export-output") when a folder with a model's name exists that no export wrote.
    """
    models = hosted_models(folder)
    orders = [target.order(folder, model, repository / model.name, choices) for model in models]
    hosted = [(order, target.host(order)) for order in orders]
    for order in orders:
        _refuse_foreign(repository, order.model.name)
    for order, hosting in hosted:
        _write_model(target.name, order, hosting, repository)
    _remove_left(repository, {model.name for model in served_models()} - {model.name for model in models})
    return repository


def _remove_left(repository: Path, names: set[str]) -> None:
    """Remove models that an earlier export of another folder wrote: they would answer for that folder."""
    for name in names:
        if (repository / name / CONFIG_PBTXT).is_file():
            shutil.rmtree(repository / name)


def _write_model(target: str, order: Order, hosting: Hosting, repository: Path) -> None:
    model = order.model
    metadata = model.metadata(order.folder)
    outputs = tuple(replace(one, dtype=hosting.dtypes.get(one.name, one.dtype)) for one in metadata.outputs)
    text = config_text(target, replace(metadata, outputs=outputs), model.batching, hosting)
    with _written(repository, model.name) as place:
        (place / "1").mkdir()
        (place / CONFIG_PBTXT).write_text(text, encoding="utf-8")
        hosting.write(place / "1")


@contextmanager
def _written(repository: Path, model: str) -> Iterator[Path]:
    """Lend a folder to write a model into; it replaces the one in the repository when it is complete.

    A server that loads meanwhile finds the old model, the new one, or none.
    """
    repository.mkdir(parents=True, exist_ok=True)
    for left in repository.glob(f".{model}.????????"):
        shutil.rmtree(left)  # of an export that was killed: Triton takes it for a model, and does not start
    folder = Path(tempfile.mkdtemp(prefix=f".{model}.", dir=repository))
    try:
        folder.chmod(0o777 & ~umask())
        yield folder
        _swap(folder, repository / model)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_foreign(repository: Path, model: str) -> None:
    """Raise InvalidInputError("export-output") if a folder with the model's name was not exported."""
    place = repository / model
    if place.exists() and not (place / CONFIG_PBTXT).is_file():
        raise InvalidInputError(
            "export-output",
            f"{place} exists already, and is not an exported model.",
            hint="Give --out another folder.",
        )


def _swap(written: Path, place: Path) -> None:
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        place.rename(old / place.name)
        written.rename(place)
        shutil.rmtree(old)
    else:
        written.rename(place)
