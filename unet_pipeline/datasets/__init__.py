"""Files -> raw arrays: decoding, folder layouts, checks, splits, manifests, loaders."""

from __future__ import annotations

__all__: list[str] = []
