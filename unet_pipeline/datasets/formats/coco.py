"""COCO: JSON files of images, categories and annotations; polygons and run-length codes.

The files as COCO has them (annotations/instances_train2017.json), as Roboflow exports them
(train/_annotations.coco.json), or one file beside its images. Format: https://cocodataset.org,
"Data format".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet_pipeline.classes import IGNORE_INDEX
from unet_pipeline.datasets.findings import counted, name_five
from unet_pipeline.datasets.formats.coco_classes import find_coco_classes
from unet_pipeline.datasets.formats.coco_file import CocoFile, load, looks_like_coco
from unet_pipeline.datasets.formats.contract import Format, Found, Tree
from unet_pipeline.datasets.formats.faults import (
    SHAPE_KINDS,
    Faults,
    Kind,
    fault_findings,
    ring_of,
)
from unet_pipeline.datasets.formats.listed import (
    Drawn,
    Placed,
    few_of,
    image_places,
    locate,
    pair_up,
    refuse_twice,
    surroundings,
)
from unet_pipeline.datasets.formats.named_folders import refuse_masks
from unet_pipeline.datasets.formats.pairs import about_splits
from unet_pipeline.datasets.formats.placement import note_place
from unet_pipeline.datasets.raster import MAX_PIXELS
from unet_pipeline.datasets.shapes import (
    LARGEST,
    Polygon,
    Ring,
    Runs,
    Shape,
    largest_first,
    run_lengths,
)
from unet_pipeline.errors import DatasetError

_VOID = IGNORE_INDEX  # the value of crowds: regions with objects that nobody outlined one by one

_KINDS = SHAPE_KINDS | {
    "unknown-images": Kind(
        "annotation",
        "of an image that the file does not list, left out",
        "list the image, or remove them",
    ),
    "repeated-annotations": Kind(
        "annotation",
        "listed twice: of the image, the category and the outline of an earlier one",
        "remove them",
        "warning",
    ),
}


def recognise(tree: Tree) -> str | None:
    """Why `tree` is COCO: its JSON files that list images, annotations and categories."""
    names = _candidates(tree)
    if not names:
        return None
    verb = "holds" if len(names) == 1 else "hold"
    return f"{name_five(names)} {verb} images, annotations and categories"


def read(tree: Tree, images: str | None, masks: str | None) -> Found:
    """The images that the JSON files list, with masks drawn from their annotations.

    Crowds are void and lie at the bottom, above them the objects, the largest first. Categories
    become classes in the order of their ids, those of one name a single class; those that have a
    `mask_value` are classes by that, used or not.
    Raises `DatasetError` for files that are no COCO, and where several annotate the same images.
    """
    refuse_masks(masks, "COCO")
    names = [tree.only] if tree.only else _candidates(tree)
    if not names:
        raise DatasetError(
            f"{tree.root}: no .json file in it holds images, annotations and categories"
        )
    around = surroundings(tree)
    sources, left_out = _with_segmentations([load(tree, around, name) for name in names])
    places = image_places(around if images is None else tree, images)
    placed = {s.name: locate([i.listed for i in s.images.values()], places) for s in sources}
    sources = _without_unions(tree.root, sources, placed, left_out)
    classes = find_coco_classes(tree.root, sources, left_out)
    faults: Faults = defaultdict(list)
    drawn = []
    for source in sources:
        shapes = _draw(source, classes.values, faults)
        drawn += [
            Drawn(image.listed, place, image.size, _in_order(shapes.get(key, [])))
            for (key, image), place in zip(source.images.items(), placed[source.name], strict=True)
        ]
    num_shapes = sum(len(each.shapes) for each in drawn)
    files = name_five([source.name for source in sources])
    if not num_shapes and not faults and not classes.declared:
        raise DatasetError(f"{name_five([str(s.path) for s in sources])}: holds no annotations")
    painted = drawn if classes.ground == 0 else _on_ground(drawn, classes.ground)
    pairs, also_left_out, findings = pair_up(tree.root, painted, places)
    return Found(
        pairs,
        f"{counted(len(pairs), 'pair')}: {_counts(drawn)} drawn from {files}"
        + about_splits(pairs, "by name"),
        (*left_out, *also_left_out),
        class_list=classes.listed,
        ignore_values=(_VOID,) if any(_is_void(s) for d in drawn for s in d.shapes) else (),
        findings=(*findings, *fault_findings(faults, _KINDS, all_lost=not num_shapes)),
    )


# ---- the files ----------------------------------------------------------------------------------


def _candidates(tree: Tree) -> list[str]:
    return [name for name in few_of(tree, ".json") if looks_like_coco(tree.path(name))]


def _with_segmentations(sources: list[CocoFile]) -> tuple[list[CocoFile], list[str]]:
    """The files that outline objects; those of another kind only where there is nothing else."""
    left_out: list[str] = []
    # a split without any object is still a split
    outlined = {s.name for s in sources if any(a.get("segmentation") for a in s.annotations)}
    boxes = [s for s in sources if s.annotations and s.name not in outlined]
    keypoints = [source for source in sources if source.has_keypoints and source not in boxes]
    for kind, others in (("boxes alone", boxes), ("keypoints", keypoints)):
        if others and len(others) < len(sources):
            left_out += [f"left out: {source.name}, which holds {kind}" for source in others]
            sources = [source for source in sources if source not in others]
    return sources, left_out


def _without_unions(
    root: Path, sources: list[CocoFile], placed: dict[str, list[Placed]], left_out: list[str]
) -> list[CocoFile]:
    """The files without those that repeat the splits of others; images in two are refused."""
    paths = {name: {p.path for p in places if p.path} for name, places in placed.items()}
    parts = [source for source in sources if source.split]
    in_parts = {path for source in parts for path in paths[source.name]}
    kept = []
    for source in sources:
        if parts and not source.split and paths[source.name] <= in_parts:
            others = name_five([part.name for part in parts])
            left_out.append(f"left out: {source.name}, whose images are all in {others}")
        else:
            kept.append(source)
    refuse_twice(root, {source.name: placed[source.name] for source in kept})
    return kept


# ---- annotations --------------------------------------------------------------------------------


def _draw(source: CocoFile, classes: dict[str, int], faults: Faults) -> dict[str, list[Shape]]:
    """The shapes of each image by its id; what cannot be drawn goes to `faults`."""
    drawn: dict[str, list[Shape]] = {}
    seen: set[int] = set()
    for number, annotation in enumerate(source.annotations):
        where = f"annotation {annotation.get('id', f'number {number}')} in {source.name}"
        image_id, category_id = (str(annotation.get(key)) for key in ("image_id", "category_id"))
        image = source.images.get(image_id)
        if image is None:
            faults["unknown-images"].append(f"{where}: image id {image_id}")
            continue
        where = f"{where}, {image.listed.name}"
        category = source.categories.get(category_id)
        segmentation = annotation.get("segmentation")
        if category is None:
            faults["unknown-categories"].append(f"{where}: category id {category_id}")
            continue
        if not segmentation:
            faults["no-segmentation"].append(f"{where}: no segmentation")
            continue
        value = _VOID if annotation.get("iscrowd") in (1, True, "1") else classes[category]
        if isinstance(segmentation, dict):
            shape = _runs(segmentation, image.size, value, where, faults)
        else:
            shape = _polygon(segmentation, image.size, value, where, faults)
        if shape is not None:
            same = hash((image_id, category_id, _beginning(segmentation)))
            if same in seen:
                faults["repeated-annotations"].append(where)
            seen.add(same)
            drawn.setdefault(image_id, []).append(shape)
    return drawn


def _beginning(segmentation: Any) -> str:
    """What tells one outline from all others: millions of them are held at once."""
    if isinstance(segmentation, dict):
        return repr(segmentation.get("counts"))[:200]
    rings = segmentation if isinstance(segmentation, list) else []
    parts = [(len(ring), ring[:8]) if isinstance(ring, list) else ring for ring in rings[:8]]
    return repr((len(rings), parts))


def _polygon(
    segmentation: Any, size: tuple[int, int] | None, value: int, where: str, faults: Faults
) -> Shape | None:
    """The polygon of those rings that can be drawn; None where none can."""
    if not isinstance(segmentation, list):
        segmentation = [None]
    elif not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one ring without its brackets
    rings: list[Ring] = []
    for ring in segmentation:
        try:
            good = ring_of(ring)
            note_place(Polygon(value, (good,)), size, where, faults)
            rings.append(good)
        except ValueError as error:
            faults["broken-shapes"].append(f"{where}: {error}")
    return Polygon(value, tuple(rings)) if rings else None


def _runs(
    code: dict[str, Any], size: tuple[int, int] | None, value: int, where: str, faults: Faults
) -> Shape | None:
    """The shape of a run-length code, {"size": [h, w], "counts": text or list}."""
    from pycocotools import mask as coco

    try:
        height, width = map(int, code["size"])
        counts = code["counts"]
        if size not in (None, (height, width)) or height * width > MAX_PIXELS:
            raise ValueError("of another size")
        text = counts.encode("ascii") if isinstance(counts, str) else b""
        lengths = run_lengths(text).tolist() if text else [int(run) for run in counts]
        if min(lengths) < 0 or sum(lengths) != height * width:
            raise ValueError("of another size")
        if not text:
            plain = {"size": [height, width], "counts": lengths}
            text = coco.frPyObjects(plain, height, width)["counts"]
        return Runs(value, (height, width), text)
    except (KeyError, TypeError, ValueError, OverflowError):
        faults["broken-shapes"].append(
            f"{where}: a run-length code that does not fit the size of the image"
        )
        return None


def _counts(drawn: Sequence[Drawn]) -> str:
    """How many objects there are, and how many crowds, which become void."""
    every = [shape for each in drawn for shape in each.shapes]
    num_crowds = sum(map(_is_void, every))
    objects = counted(len(every) - num_crowds, "object")
    return f"{objects} and {counted(num_crowds, 'crowd region')} (void)" if num_crowds else objects


def _is_void(shape: Shape) -> bool:
    return shape.value == _VOID


def _in_order(shapes: list[Shape]) -> tuple[Shape, ...]:
    """Void first, so that it covers no object that has a label."""
    objects = [shape for shape in shapes if not _is_void(shape)]
    return (*largest_first(filter(_is_void, shapes)), *largest_first(objects))


def _on_ground(drawn: Sequence[Drawn], value: int) -> list[Drawn]:
    """`drawn` above a shape that covers all of each image."""
    low, high = -LARGEST, LARGEST
    ground = Polygon(value, ((low, low, high, low, high, high, low, high),))
    return [each._replace(shapes=(ground, *each.shapes)) for each in drawn]


FORMAT = Format("COCO: .json with polygons or run lengths, one or one a split", recognise, read)
