"""Datasets written back in the formats of others: one module a format, `catalogue` knows all."""

from __future__ import annotations

from unet_pipeline.datasets.exports.catalogue import EXPORTS, Export, export

__all__ = ["EXPORTS", "Export", "export"]
