"""Images in whatever form they come: each form gives the mask that `unet predict` writes."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import unet_pipeline
from unet_pipeline import cli
from unet_pipeline.classes import Classes, default_colors
from unet_pipeline.datasets.encoders import encode_png, encode_tiff
from unet_pipeline.datasets.images import decode_image
from unet_pipeline.errors import DatasetError, UserError
from unet_pipeline.inference import Predictor, example_image
from unet_pipeline.models import ModelCard, Segmenter, save_model

RANGES = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def save(path: Path, *, in_channels: int = 3, dtype: str = "uint8") -> Path:
    """A small network of random weights, whose masks hold all classes."""
    classes = Classes(
        names=("background", "cell", "wall"),
        colors=default_colors(3),
        values=(0, 100, 200),
        encoding="palette",
    )
    card = ModelCard(
        network="unet",
        options={"base_channels": 8, "depth": 2, "norm": "group"},
        classes=classes,
        in_channels=in_channels,
        dtype=dtype,
        value_range=(0.0, RANGES[dtype]),
        mean=(0.5,) * in_channels,
        std=(0.3,) * in_channels,
        window=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_model(path, Segmenter.from_card(card))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor(model, device="cpu", amp="off")


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def jpeg_on_its_side() -> bytes:
    """A JPEG that its EXIF orientation turns by a quarter."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(noise(30, 50, 3)).save(file, "JPEG", exif=exif)
    return file.getvalue()


FILES = {
    "rgb.png": (encode_png(noise(40, 50, 3)), {}),
    "grey.png": (encode_png(noise(40, 50)), {}),
    "large.png": (encode_png(noise(150, 200, 3)), {}),
    "on its side.jpg": (jpeg_on_its_side(), {}),
    "rgb for grey.png": (encode_png(noise(40, 50, 3)), {"in_channels": 1}),
    "16 bits.png": (encode_png(noise(40, 50, dtype=np.uint16)), {"dtype": "uint16"}),
    "five channels.tif": (encode_tiff(noise(40, 50, 5)), {"in_channels": 5}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_a_file_gives_the_mask_that_predict_writes(name: str, tmp_path: Path) -> None:
    data, options = FILES[name]
    model = save(tmp_path / "model.safetensors", **options)
    path = tmp_path / name
    path.write_bytes(data)
    command = ["predict", str(path), "--model", str(model), "--output", str(tmp_path / "masks")]
    assert cli.run([*command, "--device", "cpu"]) == 0
    written = (tmp_path / "masks" / name).with_suffix(".png").read_bytes()
    predictor = Predictor(model, device="cpu")

    pixels = decode_image(data, source=name)
    for form in (pixels, data, path, str(path)):
        assert predictor.predict(form, output="mask") == written
    assert base64.b64decode(predictor.predict(text(data))) == written
    values = np.asarray(PIL.Image.open(io.BytesIO(written)))
    assert len(np.unique(values)) > 1, "a mask of one class shows nothing"
    assert np.array_equal(predictor.predict(pixels, output="values"), values)
    indices = predictor.predict(pixels)
    assert indices.dtype == np.uint8
    assert np.array_equal(indices * 100, values)


def test_arrays_come_back_as_arrays_and_lists_as_lists(predictor: Predictor) -> None:
    grey, color = noise(40, 50), noise(24, 32, 3)
    assert predictor.predict(grey).shape == (40, 50)
    assert predictor.predict(color).shape == (24, 32)
    batch = predictor.predict(np.stack([grey, grey[::-1]]))
    assert np.array_equal(batch, [predictor.predict(grey), predictor.predict(grey[::-1])])
    assert predictor.predict(color[None]).shape == (1, 24, 32)
    assert predictor.predict(np.zeros((0, 24, 32, 3), np.uint8)).shape == (0, 24, 32)
    several = predictor.predict([grey, color])
    assert [mask.shape for mask in several] == [(40, 50), (24, 32)]
    assert predictor.predict([]) == []
    assert isinstance(predictor.predict(np.stack([color, color]), output="mask")[1], bytes)


def test_numbers_in_nested_lists_are_images_of_the_model_s_type(predictor: Predictor) -> None:
    grey, color = noise(20, 30), noise(24, 32, 3)
    assert np.array_equal(predictor.predict(grey.tolist()), predictor.predict(grey))
    assert np.array_equal(predictor.predict(color.tolist()), predictor.predict(color))
    alike = predictor.predict([grey.tolist(), grey.tolist()])
    ragged = predictor.predict([grey.tolist(), grey[:9].tolist()])
    assert [mask.shape for mask in alike + ragged] == [(20, 30), (20, 30), (20, 30), (9, 30)]


def test_a_table_of_one_column_is_a_list(predictor: Predictor) -> None:
    pandas = pytest.importorskip("pandas")
    png = text(encode_png(noise(20, 30)))
    for table in (pandas.DataFrame({"any": [png, png]}), pandas.Series([png, png])):
        assert predictor.predict(table) == predictor.predict([png, png])
    mixed = pandas.DataFrame({"image": [noise(20, 30), noise(9, 9, 3)]})
    assert [mask.shape for mask in predictor.predict(mixed)] == [(20, 30), (9, 9)]
    with pytest.raises(DatasetError, match=r"2 columns \(a, b\)"):
        predictor.predict(pandas.DataFrame({"a": [png], "b": [png]}))


def test_base64_may_be_broken_into_lines_url_safe_unpadded_or_a_data_url(
    predictor: Predictor,
) -> None:
    data = encode_png(noise(20, 30, 3))
    expected = predictor.predict(text(data))
    for form in (
        base64.encodebytes(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        f"data:image/png;base64,{text(data)}",
    ):
        assert predictor.predict(form) == expected


def test_files_are_text_where_that_is_asked_or_the_image_came_so(predictor: Predictor) -> None:
    image = noise(20, 30, 3)
    for output in ("mask", "color", "overlay"):
        file = predictor.predict(image, output=output)
        assert file.startswith(b"\x89PNG")
        assert base64.b64decode(predictor.predict(image, output=output, text=True)) == file
        assert base64.b64decode(predictor.predict(text(encode_png(image)), output=output)) == file
    assert predictor.predict(text(encode_png(image)), output="indices").shape == (20, 30)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["no such"], "image 0: 'no such' is neither a file nor base64"),
        ("http://127.0.0.1/x.png", "the image: 'http://127.0.0.1/x.png' is neither"),
        ("data:image/png,abc", "must hold base64"),
        ([noise(9, 9), b"GIF89a"], "image 1: "),
        ([noise(9, 9), b"x" * 40], "image 1: is none of the formats"),
        (noise(9, 9).astype(np.float64), "the image: holds float64 pixels"),
        (None, "the image: is of type NoneType"),
        ([[1, 256], [3, 4]], "not of the type uint8"),
        ([[[1, 2], [3]], [[1, 2]]], "image 0: its rows have different lengths"),
        ([["a", "b"], ["c", "d"]], "a list of numbers"),
    ],
)
def test_what_is_no_image_is_named(images: Any, expected: str, predictor: Predictor) -> None:
    with pytest.raises(DatasetError) as raised:
        predictor.predict(images)
    assert expected in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_path_is_not_opened_where_that_is_forbidden(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(noise(9, 9)))
    assert predictor.predict(str(path)).shape == (9, 9)
    with pytest.raises(DatasetError, match="not opened here"):
        predictor.predict(str(path), paths=False)
    with pytest.raises(DatasetError, match=r"image 0: .*missing"):
        predictor.predict([tmp_path / "missing"])


def test_an_unknown_output_is_refused_with_the_nearest_one(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="did you mean 'color'"):
        predictor.predict(noise(9, 9), output="colour")


@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_the_example_of_a_model_is_a_small_image_that_it_takes(
    dtype: str, in_channels: int, tmp_path: Path
) -> None:
    model = Predictor(save(tmp_path / "m.safetensors", dtype=dtype, in_channels=in_channels))
    example = example_image(model.segmenter.card)
    assert len(example) < 4000
    assert model.predict(example).shape == (16, 16)


def test_the_predictor_is_public() -> None:
    assert unet_pipeline.Predictor is Predictor
