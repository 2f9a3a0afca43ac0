"""What importing costs, and what the public interface offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unet_pipeline

HEAVY = "torch", "mlflow", "torchvision", "matplotlib", "albumentations", "sklearn", "optuna"


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["predict", "--help"],
        ["sweep", "--help"],
        ["--version"],
        ["trian"],
    ],
)
def test_help_imports_neither_torch_nor_mlflow(arguments: list[str]) -> None:
    loaded = modules_after(
        f"from unet_pipeline.cli import run\ncode = run({arguments!r})\nassert code in (0, 2), code"
    )
    assert "unet_pipeline.cli" in loaded
    assert not loaded & set(HEAVY)


def test_importing_the_package_loads_none_of_its_modules() -> None:
    loaded = modules_after("import unet_pipeline")
    assert not {name for name in loaded if name.startswith("unet_pipeline.")}


def test_every_public_name_exists_and_is_listed() -> None:
    for name in unet_pipeline.__all__:
        assert getattr(unet_pipeline, name) is not None
    assert dir(unet_pipeline) == sorted(unet_pipeline.__all__)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        _ = unet_pipeline.Unet


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unet_pipeline", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"unet-pipeline {unet_pipeline.__version__}\n"
