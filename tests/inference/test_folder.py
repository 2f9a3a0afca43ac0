"""Masks for a folder: overlap of reading, computing and writing; faults; reruns."""

from __future__ import annotations

import csv
import json
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unet_pipeline.errors import OutputInUseError, ResourceError, UserError
from unet_pipeline.files import folder_lock
from unet_pipeline.inference import collect_inputs, folder, plan_outputs, predict_folder, threads
from unet_pipeline.inference.inputs import INDEX_NAME
from unet_pipeline.inference.ledger import prediction_digest


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(names, *, bright=True, size=(12, 17)) -> None:
    """Grey images with a bright square, whose class is 1, at a place of its own each."""
    for n, name in enumerate(names):
        array = np.zeros(size, dtype=np.uint8)
        if bright:
            array[n % 5 : n % 5 + 4, 3:9] = 250
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(name)


def run(segmenter, *sources, output="out", save=("mask",), **options):
    jobs = plan_outputs(collect_inputs(sources, output=Path(output)), Path(output), save)
    defaults = {
        "window": 32,
        "overlap": 0.25,
        "batch_size": 4,
        "autocast_dtype": None,
        "tta": False,
        "threshold": None,
        "skip_existing": False,
    }
    return predict_folder(segmenter, jobs, output=Path(output), **defaults | options)


def tree(root="out") -> list[str]:
    return sorted(str(p.relative_to(root)) for p in Path(root).rglob("*") if p.is_file())


def read(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def failures() -> list[list[str]]:
    with Path("out/failures.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


class Spy(nn.Module):
    """Calls `before(n)` for the n-th image, from 0, then answers by brightness."""

    def __init__(self, before) -> None:
        super().__init__()
        self.before, self.calls = before, 0

    def forward(self, x):
        self.before(self.calls)
        self.calls += 1
        return torch.cat([0.5 - x, x - 0.5], dim=1)


def test_masks_are_written_at_the_original_size_in_a_mirrored_tree(place, make_segmenter):
    names = ["in/a.png", "in/s/b.bmp", "in/s/t/c.tif"]
    write_images(names)
    write_images(["in/large.png"], size=(70, 90))  # through windows
    done = []

    summary = run(make_segmenter(), "in", on_progress=done.append)

    assert tree() == ["a.png", "large.png", INDEX_NAME, "s/b.png", "s/t/c.png"]
    for name in [*names, "in/large.png"]:
        mask = read(Path("out") / Path(name).relative_to("in").with_suffix(".png"))
        np.testing.assert_array_equal(mask, np.where(read(name) > 127, 255, 0))
    assert (summary.written, summary.skipped, summary.failures) == (4, 0, ())
    assert summary.class_pixels == (3 * 12 * 17 + 70 * 90 - 4 * 24, 4 * 24)
    assert summary.megapixels == pytest.approx((3 * 12 * 17 + 70 * 90) / 1e6)
    assert summary.seconds > 0
    assert done == [1, 2, 3, 4]
    assert summary.warning is None


def test_every_kind_of_output_is_written(place, make_segmenter):
    write_images(["in/a.png"])
    run(make_segmenter(), "in", save=("mask", "color", "overlay", "probabilities"), tta=True)
    assert tree() == [
        "a.png", "a_color.png", "a_overlay.png", "a_probabilities.npy", INDEX_NAME,
    ]  # fmt: skip
    probabilities = np.load("out/a_probabilities.npy", allow_pickle=False)
    np.testing.assert_array_equal(probabilities.argmax(0) * 255, read("out/a.png"))


def test_files_that_cannot_be_read_are_listed_and_the_rest_goes_on(place, make_segmenter):
    write_images([f"in/good{n}.png" for n in range(6)])
    good = Path("in/good0.png").read_bytes()
    Path("in/cut.png").write_bytes(good[: len(good) // 2])
    Path("in/empty.jpg").write_bytes(b"")
    Path("in/=text.png").write_text("no image")
    Path("in/deep.png").write_bytes(b"")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save("in/deep.png")
    Path(os.fsdecode(b"in/\xff\nname.png")).write_bytes(b"?")
    os.mkfifo("in/pipe.png")
    Path("in/gone.png").symlink_to("nowhere")
    done = []

    summary = run(make_segmenter(), "in", on_progress=done.append)

    assert summary.written == 6
    assert len(summary.failures) == 7
    assert done[-1] == 13
    header, *rows = failures()
    assert header == ["file", "reason"]
    reasons = dict(rows)
    assert set(reasons) == {
        "in/cut.png", "in/empty.jpg", "in/=text.png", "in/deep.png", "in/\\udcff\nname.png",
        "in/pipe.png", "in/gone.png",
    }  # fmt: skip
    assert "0 bytes" in reasons["in/empty.jpg"]
    assert "uint16" in reasons["in/deep.png"]
    assert "regular file" in reasons["in/pipe.png"]
    assert not any(reason.startswith("in/") for reason in reasons.values())
    assert tree() == ["failures.csv", *[f"good{n}.png" for n in range(6)], INDEX_NAME]


def test_failures_that_are_mended_leave_no_list_behind(place, make_segmenter):
    write_images(["in/a.png"])
    Path("in/b.png").write_text("no image")
    run(make_segmenter(), "in")
    assert len(failures()) == 2
    write_images(["in/b.png"])
    run(make_segmenter(), "in")
    assert not Path("out/failures.csv").exists()


def test_an_answer_that_is_not_finite_is_a_failure_and_no_mask(place, make_segmenter):
    write_images(["in/a.png", "in/b.png"])

    class SometimesNan(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.cat([x, x * (float("nan") if self.calls == 1 else 2)], dim=1)

    summary = run(make_segmenter(SometimesNan()), "in")
    assert [failure.path.name for failure in summary.failures] == ["a.png"]
    assert "not finite" in summary.failures[0].reason
    assert tree() == ["b.png", "failures.csv", INDEX_NAME]


def test_a_name_too_long_for_its_output_fails_alone(place, make_segmenter):
    write_images(["in/a.png", f"in/{'x' * 245}.png"])
    summary = run(make_segmenter(), "in", save=("mask", "overlay"))
    assert summary.written == 1
    assert summary.failures[0].reason == "File name too long"


# ---- reruns -----------------------------------------------------------------------------------


@pytest.fixture
def done_once(place, make_segmenter):
    write_images([f"in/{n}.png" for n in range(4)])
    segmenter = make_segmenter()
    run(segmenter, "in")
    return segmenter


def stamps():
    return {name: Path("out", name).stat().st_mtime_ns for name in tree() if name != INDEX_NAME}


def rewritten(segmenter, *, save=("mask",), **options):
    """Names of the outputs that a rerun writes again or for the first time."""
    before = stamps()
    summary = run(segmenter, "in", skip_existing=True, save=save, **options)
    after = stamps()
    changed = sorted(name for name in after if after[name] != before.get(name))
    assert summary.written * len(save) == len(changed)
    return changed


def test_nothing_is_done_twice(done_once):
    assert rewritten(done_once) == []
    assert run(done_once, "in", skip_existing=True).skipped == 4
    assert run(done_once, "in").written == 4  # unless it is asked for


def test_a_changed_image_is_done_again(done_once):
    write_images(["in/2.png"], size=(13, 13))
    assert rewritten(done_once) == ["2.png"]
    later = Path("in/1.png").stat().st_mtime_ns + 10**9
    os.utime("in/1.png", ns=(later, later))  # touched: newer than its mask
    run(done_once, "in", skip_existing=True)
    assert rewritten(done_once) == ["1.png"]


def test_a_missing_or_damaged_mask_is_made_again(done_once):
    Path("out/0.png").unlink()
    Path("out/3.png").write_bytes(b"half")
    assert rewritten(done_once) == ["0.png", "3.png"]


def test_another_model_or_other_settings_redo_all_but_names_of_the_run_do_not(
    done_once, make_segmenter
):
    every = ["0.png", "1.png", "2.png", "3.png"]
    same = make_segmenter()
    same.card = same.card.model_copy(update={"facts": {"run": "other"}, "package_version": "9"})
    assert rewritten(same) == []
    assert rewritten(same, threshold=0.4) == every
    assert rewritten(same, tta=True) == every
    assert rewritten(same, tta=True) == []
    other = make_segmenter()
    other.network.centres.data[1] += 1e-3
    assert rewritten(other) == every


def test_further_kinds_are_made_without_forgetting_the_former(done_once):
    assert len(rewritten(done_once, save=("mask", "color"))) == 8
    assert rewritten(done_once, save=("mask", "color")) == []
    assert rewritten(done_once, save=("color",)) == []
    assert rewritten(done_once) == []


def test_masks_without_an_index_are_not_trusted(done_once):
    Path("out", INDEX_NAME).write_text('{"input": 3}\nno json\n[]\n{"input": "0.png"}\n')
    assert rewritten(done_once) == ["0.png", "1.png", "2.png", "3.png"]


def test_the_index_says_what_was_made_from_what(done_once):
    entries = [json.loads(line) for line in Path("out", INDEX_NAME).read_bytes().splitlines()]
    assert [entry["input"] for entry in entries] == ["0.png", "1.png", "2.png", "3.png"]
    first = entries[0]
    assert first["size"] == Path("in/0.png").stat().st_size
    assert first["outputs"] == {"0.png": Path("out/0.png").stat().st_size}
    assert first["pixels"] == [12 * 17 - 24, 24]


def test_the_index_takes_names_that_are_no_text(place, make_segmenter):
    write_images([os.fsdecode(b"in/\xff\n.png")])
    run(make_segmenter(), "in")
    assert run(make_segmenter(), "in", skip_existing=True).skipped == 1


def test_the_digest_is_that_of_everything_that_decides_a_mask(make_segmenter):
    base = prediction_digest(make_segmenter(), tta=False)
    assert prediction_digest(make_segmenter(), tta=False) == base
    assert prediction_digest(make_segmenter(), tta=True) != base
    assert prediction_digest(make_segmenter(dtype="uint16"), tta=False) != base
    half = make_segmenter().half()
    assert prediction_digest(half, tta=False) != base


# ---- faults -----------------------------------------------------------------------------------


def test_after_ctrl_c_finished_masks_stay_none_is_partial_and_a_rerun_does_the_rest(
    place, make_segmenter
):
    write_images([f"in/{n:02d}.png" for n in range(12)])
    Path("in/00bad.png").write_text("no image")
    run(make_segmenter(), "in", output="straight")

    def interrupt(n):
        if n == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_segmenter(Spy(interrupt)), "in")

    masks = [name for name in tree() if name.endswith(".png")]
    assert masks == [f"{n:02d}.png" for n in range(6)]
    assert tree() == [*masks, "failures.csv", INDEX_NAME]  # no temporary file, no lock
    for name in masks:
        np.testing.assert_array_equal(read(Path("out", name)), read(Path("straight", name)))

    summary = run(make_segmenter(Spy(lambda n: None)), "in", skip_existing=True)
    assert (summary.skipped, summary.written) == (6, 6)
    assert tree() == tree("straight")
    for name in tree("straight"):
        if name.endswith(".png"):
            assert Path("out", name).read_bytes() == Path("straight", name).read_bytes()


def test_a_full_disk_stops_the_work_and_leaves_no_partial_file(place, make_segmenter):
    write_images([f"in/{n}.png" for n in range(30)], size=(64, 64))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    computed = []
    segmenter = make_segmenter(Spy(computed.append))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))  # masks fit, 16 kB do not
    try:
        with pytest.raises(ResourceError, match=r"cannot write out/\d+_probabilities.npy"):
            run(segmenter, "in", save=("mask", "probabilities"), num_threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(computed) < 10
    assert not [name for name in tree() if "probabilities" in name or name.endswith(".tmp")]
    for name in tree():
        if name.endswith(".png"):
            assert read(Path("out", name)).shape == (64, 64)
    assert "size limit" in failures()[1][1]
    # nothing is remembered as done
    assert run(segmenter, "in", save=("mask", "probabilities"), skip_existing=True).written == 30


def test_a_lack_of_memory_stops_the_work_naming_the_image(place, make_segmenter):
    write_images(["in/a.png", "in/b.png"])

    def fail(n):
        if n == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match=r"in/b.png: out of memory: .*--window"):
        run(make_segmenter(Spy(fail)), "in")
    assert tree() == ["a.png", INDEX_NAME]


def test_an_output_in_use_or_in_the_way_is_refused(place, make_segmenter):
    write_images(["in/a.png"])
    Path("out").mkdir()
    with folder_lock(Path("out")), pytest.raises(OutputInUseError):
        run(make_segmenter(), "in")
    assert tree() == []
    Path("file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        run(make_segmenter(), "in", output="file")


def test_bad_options_are_refused_before_anything_is_written(place, make_segmenter):
    write_images(["in/a.png"])
    for options in ({"window": 0}, {"overlap": 1.0}, {"threshold": 7.0}):
        with pytest.raises(UserError):
            run(make_segmenter(), "in", **options)
    with pytest.raises(UserError, match="the model has 3"):
        run(make_segmenter(num_classes=3), "in", threshold=0.5)
    assert not Path("out").exists()


# ---- the pipeline -----------------------------------------------------------------------------


def test_reading_computing_and_writing_overlap(place, make_segmenter, monkeypatch):
    write_images([f"in/{n}.png" for n in range(3)])
    second_is_read, second_is_computed = threading.Event(), threading.Event()
    decode, write = threads._decode, threads._write

    def watched_decode(job, card):
        result = decode(job, card)
        if job.input.path.name == "1.png":
            second_is_read.set()
        return result

    def watched_write(prediction, job):
        if job.input.path.name == "0.png":  # held up until the network has gone on
            assert second_is_computed.wait(20)
        return write(prediction, job)

    def before(n):
        if n == 0:
            assert second_is_read.wait(20)
        elif n == 1:
            second_is_computed.set()

    monkeypatch.setattr(threads, "_decode", watched_decode)
    monkeypatch.setattr(threads, "_write", watched_write)
    assert run(make_segmenter(Spy(before)), "in").written == 3


@pytest.mark.parametrize("limit", [10**9, 0])
def test_what_waits_in_memory_is_bounded_by_number_and_by_bytes(
    place, make_segmenter, monkeypatch, limit
):
    write_images([f"in/{n:02d}.png" for n in range(30)])
    monkeypatch.setattr(threads, "_WAITING_BYTES", limit)
    lock, counts = threading.Lock(), {"read": 0, "computed": 0, "written": 0}
    ahead, behind = [], []
    decode, write = threads._decode, threads._write

    def count(name):
        with lock:
            counts[name] += 1
            ahead.append(counts["read"] - counts["computed"])
            behind.append(counts["computed"] - counts["written"])

    def watched_decode(job, card):
        count("read")
        return decode(job, card)

    def watched_write(prediction, job):
        result = write(prediction, job)
        count("written")
        return result

    monkeypatch.setattr(threads, "_decode", watched_decode)
    monkeypatch.setattr(threads, "_write", watched_write)
    run(make_segmenter(Spy(lambda n: count("computed"))), "in", num_threads=2)

    assert counts == {"read": 30, "computed": 30, "written": 30}
    assert max(ahead) <= 2 + 2
    assert max(behind) <= (2 * 2 + 2 if limit else 2)


def test_the_number_of_threads_changes_nothing(place, make_segmenter):
    write_images([f"in/{n}.png" for n in range(7)])
    for num_threads in (1, 5):
        run(make_segmenter(), "in", output=f"out{num_threads}", num_threads=num_threads)
    for name in tree("out1"):
        if name.endswith(".png"):
            assert Path("out1", name).read_bytes() == Path("out5", name).read_bytes()


def test_no_thread_is_left_behind(place, make_segmenter):
    write_images([f"in/{n}.png" for n in range(4)])
    before = threading.active_count()
    run(make_segmenter(), "in")
    assert threading.active_count() == before


# ---- empty masks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("empty", "full", "warns"), [(5, 0, True), (3, 2, True), (3, 3, False), (4, 0, False)]
)
def test_many_masks_without_foreground_are_pointed_out(place, make_segmenter, empty, full, warns):
    write_images([f"in/e{n}.png" for n in range(empty)], bright=False)
    write_images([f"in/f{n}.png" for n in range(full)])

    summary = run(make_segmenter(), "in")

    assert summary.num_without_foreground == empty
    assert (summary.warning is not None) == warns
    if summary.warning:
        assert (
            f"{empty} of {empty + full} masks hold nothing but class 0 (background)"
            in summary.warning
        )
        for reason in ("trained too little", "channels", "scale", "--save color"):
            assert reason in summary.warning


def test_the_index_is_saved_as_work_goes_on(place, make_segmenter, monkeypatch):
    write_images([f"in/{n}.png" for n in range(12)])
    monkeypatch.setattr("unet_pipeline.inference.ledger._SAVE_EVERY", 0.0)
    seen = []

    def before(n):
        seen.append(len(Path("out", INDEX_NAME).read_bytes().splitlines()))

    run(make_segmenter(Spy(before)), "in", num_threads=1)
    assert seen[0] == 0
    assert seen[-1] >= 12 - 5
    assert folder.FAILURES_NAME not in tree()
