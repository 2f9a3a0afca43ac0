"""What a run computes with: Python and packages, kept so that a later run can be compared."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_pipeline.tracking.facts import git_tags

ENVIRONMENT_NAME = "environment.json"


def environment() -> dict[str, Any]:
    """Python, platform, and every installed package with its version; JSON-able."""
    packages = {
        distribution.name: distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.name  # one that was half removed has none
    }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def read_environment(path: Path) -> dict[str, Any] | None:
    """The environment that a run has written; None where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def environment_changes(
    then: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """What differs: python, platform, or a package -> its versions (then, now).

    >>> environment_changes({"packages": {"a": "1", "b": "1"}}, {"packages": {"a": "2", "b": "1"}})
    {'a': ('1', '2')}
    """
    if then is None:
        return {}
    changes = {
        key: (str(then[key]), str(now[key]))
        for key in ("python", "platform")
        if key in then and then[key] != now.get(key)
    }
    old, new = then.get("packages", {}), now.get("packages", {})
    for name in sorted({*old, *new}, key=str.lower):
        versions = (old.get(name, "absent"), new.get(name, "absent"))
        if versions[0] != versions[1]:
            changes[name] = versions
    return changes


def code_changes(then: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What differs of the code in the working directory, by the tags of a run then.

    Uncommitted changes are told even where both had some: nobody knows whether they were the same.
    """
    now = git_tags(Path.cwd())
    keys = {"commit": "mlflow.source.git.commit", "uncommitted changes": "unet.git_dirty"}
    pairs = {
        word: (then.get(key, "unknown"), now.get(key, "unknown")) for word, key in keys.items()
    }
    return {word: pair for word, pair in pairs.items() if pair[0] != pair[1] or "true" in pair}
