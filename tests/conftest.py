"""For all tests: torch computes with one thread, and nothing leaves this machine."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Networks in tests are tiny: two threads wait for each other longer than they compute (on a busy
# machine, 400 times as long)
torch.set_num_threads(1)

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Folders for the caches of tests, of which the first serves fixtures of the session."""
    root = tmp_path_factory.mktemp("caches")
    folders = (root / str(number) for number in itertools.count())
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("UNET_CACHE_DIR", str(next(folders)))
        yield folders


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test reads is not known from another test, nor from the user's own cache.

    The folder is apart from the one that the test works in, which some tests want unchanged.
    """
    monkeypatch.setenv("UNET_CACHE_DIR", str(next(_caches)))


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """The folder of a real dataset by its name; where it is absent, the test skips, saying so."""

    def find(name: str) -> Path:
        beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
        root = Path(os.environ.get("UNET_TEST_DATA", beside))
        if not (root / name).is_dir():
            pytest.skip(f"no real data {name} in {root} (UNET_TEST_DATA names another folder)")
        return root / name

    return find
