"""The folder of a model as MLflow knows it: MLmodel, the model file, a few lines of code."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

FOLDER = "mlflow_model"
"""Where it lies in a run folder."""

_SHA = "unet.model_sha256"
# What the prediction of a model depends on; torch and numpy alone would not decode an image alike
_PACKAGES = (
    "unet-pipeline",
    "mlflow",
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "tifffile",
    "imagecodecs",
    "safetensors",
    "pydantic",
)
_NETWORKS = ("segmentation-models-pytorch", "timm")


def write_model_folder(
    run_folder: Path, weights: Path, *, sha256: str, example: bytes, network: str
) -> Path:
    """`mlflow_model/` in the run folder for the model file `weights`, made unless it is there.

    sha256: of `weights`; a folder of another model is replaced. example: a small image file.
    network: its name; those of segmentation-models-pytorch need that package.
    The weights take no space: they are a link to `weights`, which is only ever replaced, never
    changed. Whole or absent.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    from unet_pipeline.tracking.serving import MODEL_CONFIG, WEIGHTS, signature

    target = run_folder / FOLDER
    with contextlib.suppress(Exception):  # absent, of another MLflow, damaged: it is made anew
        if (Model.load(str(target)).metadata or {}).get(_SHA) == sha256:
            return target
    for left in run_folder.glob(f".{FOLDER}.*"):  # by a process that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{FOLDER}.", dir=run_folder) as place:
        made = Path(place, FOLDER)
        mlflow.pyfunc.save_model(
            made,
            python_model=Path(__file__).with_name("model_code.py"),
            artifacts={WEIGHTS: str(weights)},
            model_config=dict(MODEL_CONFIG),
            signature=signature(),
            input_example=[base64.b64encode(example).decode()],
            pip_requirements=requirements(network),
            metadata={_SHA: sha256},
        )
        _forget_where(made)
        with contextlib.suppress(OSError):  # a file system without links: the copy stays
            copy = made / "artifacts" / weights.name
            link = Path(place, weights.name)
            os.link(weights, link)
            link.replace(copy)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    return target


def _forget_where(folder: Path) -> None:
    """Take the places on this machine out of MLmodel: nobody needs them, and others may read it."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))


def requirements(network: str) -> list[str]:
    """`name==version` of what a model of that network needs, as installed here.

    Asked for by name: finding it out by loading the model takes MLflow 6 s.
    """
    names = _PACKAGES + (_NETWORKS if network.startswith("smp:") else ())
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name).partition("+")[0]  # `+cpu` is no release
            found.append(f"{name}=={version}")
    return found
