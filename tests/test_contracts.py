"""The contracts between modules hold, and each of them can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# contract -> (module to spoil, line that breaks the contract there)
BREACHES = {
    "layers": ("classes.py", "import unet_pipeline.datasets"),
    "stages": ("stages/predict.py", "import unet_pipeline.stages.train"),
    "config": ("training/engine.py", "import unet_pipeline.config"),
    "mlflow": ("stages/train.py", "import mlflow"),
    "albumentations": ("datasets/loaders.py", "import albumentations"),
    "smp": ("models/unet.py", "import segmentation_models_pytorch"),
    "optuna": ("stages/sweep.py", "import optuna"),
    "typer": ("stages/train.py", "import typer"),
    "light": ("config.py", "import torch"),
}
OTHER_BREACHES = [  # of what a contract says of several modules
    ("layers", "stages/train.py", "import unet_pipeline.ending"),
    ("layers", "distributed.py", "import unet_pipeline.datasets"),
    ("config", "models/unet.py", "import unet_pipeline.settings_files"),
    ("config", "distributed.py", "import unet_pipeline.config"),
    ("light", "ending.py", "import matplotlib"),
]


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as c; c()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package and its contracts, to be spoiled."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "unet_pipeline",
        tmp_path / "unet_pipeline",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path


def contract_ids() -> list[str]:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return [line.split('"')[1] for line in lines if line.startswith('id = "')]


def test_every_contract_holds(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert f"{len(BREACHES)} kept, 0 broken" in done.stdout


def test_every_contract_has_a_breach_below() -> None:
    assert sorted(BREACHES) == sorted(contract_ids())


@pytest.mark.parametrize(
    ("contract", "name", "line"),
    [(contract, *breach) for contract, breach in BREACHES.items()] + OTHER_BREACHES,
)
def test_a_breach_of_a_contract_is_found(contract: str, name: str, line: str, tree: Path) -> None:
    module = tree / "unet_pipeline" / name
    text = module.read_text()
    module.write_text(text + f"\n\ndef _breach() -> None:\n    {line}\n")
    done = lint(tree, "--contract", contract)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout, done.stdout + done.stderr


def test_a_new_module_must_be_given_a_layer(tree: Path) -> None:
    (tree / "unet_pipeline" / "utils.py").touch()
    done = lint(tree, "--contract", "layers")
    assert done.returncode != 0
    assert "utils" in done.stdout + done.stderr
