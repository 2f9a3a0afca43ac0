from __future__ import annotations

from typing import Any, Literal

import pytest

from unet_pipeline.catalogue import complete, lookup
from unet_pipeline.errors import UserError


def build(
    data: int,
    *,
    num_classes: int,
    width: int = 64,
    mode: Literal["a", "b"] = "a",
    rate: float = 0.1,
) -> Any: ...


class Network:
    def __init__(self, *, in_channels: int, depth: int = 4, model_size: str = "s") -> None: ...


def test_a_name_is_looked_up_and_an_unknown_one_gets_the_nearest() -> None:
    catalogue = {"unet": 1, "mlp": 2}
    assert lookup(catalogue, "mlp", kind="model") == 2
    with pytest.raises(UserError, match="unknown model 'unett': did you mean 'unet'\\?"):
        lookup(catalogue, "unett", kind="model")
    with pytest.raises(UserError, match="use one of mlp, unet"):
        lookup(catalogue, "zzz", kind="model")


def test_options_are_completed_from_the_signature() -> None:
    options = complete(build, {"width": 32}, label="model x", given=("num_classes",))
    assert options == {"width": 32, "mode": "a", "rate": 0.1}
    options = complete(Network, {}, label="model y", given=("in_channels",))
    assert options == {"depth": 4, "model_size": "s"}


def test_text_from_a_command_line_becomes_the_type_of_the_option() -> None:
    options = complete(
        build, {"width": "32", "rate": "1e-3"}, label="model x", given=("num_classes",)
    )
    assert (options["width"], options["rate"]) == (32, 1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widht": 3}, r"model x has no option 'widht': did you mean 'width'\?"),
        ({"width": "wide"}, r"model x: width = 'wide': input should be a valid integer"),
        ({"mode": "c"}, r"model x: mode = 'c': input should be 'a' or 'b'"),
        ({"num_classes": 3}, "num_classes comes from the data and cannot be set"),
        ({"data": 3}, "has no option 'data'"),  # positional: not an option
    ],
)
def test_a_bad_option_is_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        complete(build, options, label="model x", given=("num_classes",))
    assert "\n" not in str(caught.value)


def test_an_option_without_default_must_be_given() -> None:
    with pytest.raises(UserError, match="model x needs the option 'num_classes'"):
        complete(build, {}, label="model x")
    assert complete(build, {"num_classes": 2}, label="model x")["num_classes"] == 2
