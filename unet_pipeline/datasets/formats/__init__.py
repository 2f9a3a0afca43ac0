"""How people keep images with their masks: one module a format, and which one a source is.

`catalogue` knows all of them; here is what they have in common.
"""

from __future__ import annotations

from unet_pipeline.datasets.formats.contract import Format, Found, Made, Pair, Tree, list_tree

__all__ = ["Format", "Found", "Made", "Pair", "Tree", "list_tree"]
