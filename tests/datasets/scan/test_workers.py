"""The processes that read: their answers, their errors, their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.datasets.scan.cases import write_pairs
from unet_pipeline.datasets.scan import ScanStore, scan_pairs
from unet_pipeline.datasets.scan.workers import Question, Workers
from unet_pipeline.errors import ResourceError


def test_a_killed_worker_is_one_clear_error(tmp_path: Path) -> None:
    pair = write_pairs(tmp_path, 1)[0]
    assert isinstance(pair.image, Path)
    others = psutil.Process().children()
    with Workers(1, (), []) as workers:
        assert not isinstance(workers.ask([Question("image", pair.image)])[0], str)
        (child,) = [c for c in psutil.Process().children() if c not in others]
        child.kill()
        child.wait()
        with pytest.raises(ResourceError, match=r"was killed while it read .*0\.jpg"):
            workers.ask([Question("image", pair.image)])


def test_an_error_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    with Workers(1, (), []) as workers, pytest.raises(AttributeError):
        workers.ask([Question("image", "neither path nor made")])  # type: ignore[arg-type]


def test_workers_keep_the_memory_of_pictures_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4096")
    others = psutil.Process().children()
    with Workers(1, (), []):
        (child,) = [c for c in psutil.Process().children() if c not in others]
        environment = child.environ()
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) >= 2**26
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "4096"
    assert environment["OMP_NUM_THREADS"] == "1"


_SCRIPT = """
import signal, sys
from pathlib import Path
from unet_pipeline.datasets.formats import Pair
from unet_pipeline.datasets.scan import ScanStore, pairs
pairs._TRIAL_S = pairs._WORTHWHILE_S = 0
pairs.num_cores = lambda: 2
folder = Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run behind an &
many = [Pair(str(n), folder / "0.jpg", folder / "0.png") for n in range(10**5)]
with ScanStore(folder / "cache") as store:
    store.recall = lambda path, topic: None
    for done, _ in enumerate(pairs.scan_pairs(many, store=store)):
        if done == 200:
            print("reading", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    write_pairs(tmp_path, 1)
    # A script without `if __name__ == "__main__"`, as people write them
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"reading\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as a terminal does
        else:
            parent.send_signal(number)
        parent.wait(timeout=10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_worker_recognises_equal_content(tmp_path: Path) -> None:
    pair = write_pairs(tmp_path, 1)[0]
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(pair.image.read_bytes())  # type: ignore[union-attr]
    with ScanStore(tmp_path / "cache") as store:
        list(scan_pairs([pair], store=store))
        store.flush()
        with Workers(1, (), store.paths) as workers:
            (answer,) = workers.ask([Question("image", copy)])
    assert not isinstance(answer, str)
    assert not answer.decoded
