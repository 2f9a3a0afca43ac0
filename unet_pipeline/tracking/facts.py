"""Where a run comes from: code, versions, machine, as tags."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from unet_pipeline import __version__
from unet_pipeline.tracking.names import without_credentials

_GIT_SECONDS = 2.0
_PACKAGES = ("torch", "mlflow")


def origin_tags(stage: str) -> dict[str, str]:
    """Tags that say what ran, where and in which versions.

    MLflow's own source tags belong to the program's file, which for an installed command is the
    virtual environment: they are set here for the working directory instead.
    """
    program = Path(sys.argv[0]).name if sys.argv else ""
    tags = {
        "mlflow.source.name": f"unet {stage}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user_name(),
        "unet.stage": stage,
        "unet.command": without_credentials(shlex.join([program, *sys.argv[1:]])),
        "unet.version": __version__,
        "unet.python": platform.python_version(),
        "unet.host": platform.node(),
        "unet.platform": platform.platform(),
    }
    for package in _PACKAGES:  # asked of the metadata: importing torch takes seconds
        try:
            tags[f"unet.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            tags[f"unet.{package}"] = "not installed"
    return tags | git_tags(Path.cwd())


def git_tags(folder: Path) -> dict[str, str]:
    """Commit, branch, and whether tracked files differ from it; empty where git knows nothing."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            # a status that takes the index lock can make another git command fail
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, too slow a disk
        return {}
    lines = done.stdout.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit = heads.get("branch.oid", "(initial)")
    if commit == "(initial)":
        return {}
    dirty = any(not line.startswith("#") for line in lines)
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": heads.get("branch.head", ""),
        "unet.git_dirty": str(dirty).lower(),
    }


def user_name() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
