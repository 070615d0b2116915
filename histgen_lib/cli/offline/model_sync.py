"""`histgen model sync`: a model folder, copied from a folder or a bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histgen_lib.cli.options import writable_folder
from histgen_lib.cli.output import JsonFlag, emit_json, out


def sync(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Where the model is: file:/folder or s3://bucket/prefix.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What to make of it here.", callback=writable_folder)
    ],
    *,
    digest: Annotated[
        str,
        typer.Option("--digest", metavar="SHA256", help="Take this model only (histgen model info)."),
    ] = "",
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--store-endpoint",
            metavar="URL",
            envvar="HISTGEN_STORE_ENDPOINT",
            help="URL of an S3 server other than Amazon's.",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--store-region", metavar="NAME", envvar="HISTGEN_STORE_REGION", help="Region of the bucket."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy a model folder here, all or nothing, with its digests checked.

    Run it again at any time: what is there already is not fetched again, a copy that was cut off is
    continued, and a newer model takes the place of the one before at once. FOLDER is a link to the version in
    use; the one before is kept for workers that still read it.

    For example:

      histgen model sync s3://models/breast-2 /models/breast --digest 3f5a…

      histgen model sync file:/mnt/models/breast-2 /models/breast
    """
    from histgen_lib.access.model_sync import open_source, sync_model
    from histgen_lib.cli.progress import progress_bar
    from histgen_lib.storage import StorageSettings

    source = open_source(uri, StorageSettings(uri, endpoint=endpoint or None, region=region or None))
    with progress_bar("Copying", "MB") as bar:
        synced = sync_model(
            source, folder, digest=digest, say=lambda name, done, total: bar(name, done >> 20, total >> 20)
        )
    if as_json:
        emit_json(
            {
                "folder": str(synced.folder),
                "model": synced.name,
                "sha256": synced.digest,
                "copied_bytes": synced.copied_bytes,
                "changed": synced.changed,
            }
        )
        return
    state = f"{synced.copied_bytes / 1e6:.1f} MB copied" if synced.changed else "up to date"
    out().print(f"{synced.name} in {synced.folder}: {state}\nsha256 {synced.digest}", soft_wrap=True)
