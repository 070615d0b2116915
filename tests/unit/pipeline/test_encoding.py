"""Tiles are read while others are encoded: in order, a few at a time, and no thread is left behind."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest
import tifffile
import tiny_model

from histgen_lib.errors import TransientError
from histgen_lib.inference import OnnxServer
from histgen_lib.pipeline import Scanner, load_model
from histgen_lib.pipeline.job import Stages
from histgen_lib.pipeline.scan.scanner import encode_batches
from histgen_lib.slides import TileBatch, open_slide


def batches(count: int, read: list[int] | None = None):
    for number in range(count):
        if read is not None:
            read.append(number)
        pixels = np.full((2, 4, 4, 3), number, np.uint8)
        yield TileBatch(pixels, np.zeros((2, 2), np.int32))


class Slow:
    """Answers late; counts how many calls run at once."""

    def __init__(self, *, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.several = threading.Event()

    def infer(self, model, tensors):
        number = int(tensors["tiles"][0, 0, 0, 0])
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running > 1:
                self.several.set()
        if number == 0:
            self.several.wait(5)  # the first answer comes after the second was asked for
        with self.lock:
            self.running -= 1
        if number == self.fails_at:
            raise TransientError("inference-unavailable", "Away.")
        return {"features": np.full((2, 3), number, np.float32)}


def encoders() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("histgen-encode")]


def test_features_come_in_the_order_of_the_tiles_whichever_batch_is_answered_first():
    server = Slow()
    found = [int(part[0, 0]) for part in encode_batches(batches(9), server, Stages(), in_flight=3)]

    assert found == list(range(9))
    assert 1 < server.most <= 3


def test_no_more_batches_are_read_than_can_be_in_flight():
    read: list[int] = []
    with closing(encode_batches(batches(20, read), Slow(fails_at=99), Stages(), in_flight=2)) as encoded:
        next(encoded)
        assert len(read) == 3


def test_an_error_of_the_server_reaches_the_caller_and_leaves_no_thread():
    with pytest.raises(TransientError):
        list(encode_batches(batches(9), Slow(fails_at=3), Stages(), in_flight=2))
    assert encoders() == []


def test_an_error_while_reading_leaves_no_thread():
    def broken():
        yield from batches(3)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(encode_batches(broken(), Slow(), Stages(), in_flight=2))
    assert encoders() == []


def test_a_caller_that_stops_early_leaves_no_thread():
    with closing(encode_batches(batches(9), Slow(), Stages(), in_flight=2)) as encoded:
        next(encoded)
    assert encoders() == []


def test_waiting_is_counted_by_what_was_waited_for():
    ticks = iter(range(1000))
    stages = Stages(clock=lambda: float(next(ticks)))
    server = Slow()
    server.several.set()
    list(encode_batches(batches(4), server, stages, in_flight=1))

    assert stages.seconds == {"read": 5.0, "encode": 4.0}
    assert stages.measures() == {"stage:read": 5.0, "stage:encode": 4.0}


@pytest.mark.parametrize("in_flight", [2, 3])
def test_a_bag_does_not_depend_on_how_many_are_in_flight(model_dir, slide_path, in_flight):
    model, server = load_model(model_dir), OnnxServer(model_dir, threads=1)
    with open_slide(slide_path) as slide:
        one = Scanner(model, server, in_flight=1).scan(slide).bag
        several = Scanner(model, server, in_flight=in_flight).scan(slide).bag

    assert several.digest == one.digest


def test_damaged_tiles_are_left_out_of_the_bag_and_reported_in_its_quality(model_dir, tmp_path):
    model, server = load_model(model_dir), OnnxServer(model_dir, threads=1)
    path = tiny_model.write_slide(tmp_path / "a.tif", side_px=2048)
    with open_slide(path) as slide:
        whole, overview = Scanner(model, server).scan(slide), slide.overview
    with tifffile.TiffFile(path) as tiff:
        middle = len(tiff.pages[0].dataoffsets) // 2 + 4
        start, count = tiff.pages[0].dataoffsets[middle], tiff.pages[0].databytecounts[middle]
    with path.open("r+b") as file:
        file.seek(start + count // 2)
        file.write(bytes(256))
    with open_slide(path) as slide:
        slide.__dict__["overview"] = overview  # as from a level of its own: the tile is in the grid
        scan = Scanner(model, server).scan(slide)

    lost = whole.grid.rows_at(scan.bag.xy) ^ True
    assert 1 <= lost.sum() <= 16
    assert np.array_equal(scan.grid.xy, scan.bag.xy)
    assert np.array_equal(scan.bag.features, whole.bag.features[~lost])
    assert scan.quality.damaged_tiles == lost.sum()
    assert set(scan.quality.flags) - set(whole.quality.flags) == {"damaged"}
