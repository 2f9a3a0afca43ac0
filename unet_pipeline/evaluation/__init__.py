"""Predictions -> numbers and pictures that people can trust."""

from unet_pipeline.evaluation.cases import CASE_COLUMNS, CaseTable, spread_cases
from unet_pipeline.evaluation.comparison import (
    Rung,
    best_rung,
    comparison_csv,
    comparison_markdown,
    comparison_png,
    comparison_table,
    gallery,
)
from unet_pipeline.evaluation.curves import CurveScores, summarize_curves
from unet_pipeline.evaluation.metrics import (
    ClassScores,
    Scores,
    class_scores,
    confusion_matrix,
    image_means,
    summarize,
)
from unet_pipeline.evaluation.pictures import overlay, pair, panel
from unet_pipeline.evaluation.report import scores_json, write_report
from unet_pipeline.evaluation.tables import headline_figures, score_table

__all__ = [
    "CASE_COLUMNS",
    "CaseTable",
    "ClassScores",
    "CurveScores",
    "Rung",
    "Scores",
    "best_rung",
    "class_scores",
    "comparison_csv",
    "comparison_markdown",
    "comparison_png",
    "comparison_table",
    "confusion_matrix",
    "gallery",
    "headline_figures",
    "image_means",
    "overlay",
    "pair",
    "panel",
    "score_table",
    "scores_json",
    "spread_cases",
    "summarize",
    "summarize_curves",
    "write_report",
]
