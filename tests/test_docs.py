"""The examples of the documentation run, and what it names is there.

Each fence is executed by itself, with warnings as errors, as a reader would paste it.
"""

from __future__ import annotations

import ast
import pkgutil
import re
import shlex
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch import nn

import unet_pipeline
from unet_pipeline import cli
from unet_pipeline.config import PrepareConfig, load_config
from unet_pipeline.datasets.exports import EXPORTS
from unet_pipeline.datasets.findings import CODES
from unet_pipeline.datasets.formats.catalogue import FORMATS
from unet_pipeline.errors import UserError
from unet_pipeline.training import CRITERIA, LOSSES, parse_loss

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "docs" / "from-notes-to-pipeline.md"
README = ROOT / "README.md"

STEPS = (
    *("Module", "without parameters", "lists and dicts", "cross-correlation", "pooling", "LeNet"),
    *("initializers", "losses", "one epoch", "patches to masks", "U-Net", "ladder"),
)
SLIPS = ("swapped", "accuracy", "averaged", "GPU", "printed as training")

# What the README shows needs a run that the reader has made
README_NEEDS_A_RUN = {"From Python"}

# Backticked words of the notes that are names, but neither ours nor torch's
OTHER_WORDS = {"forward", "backward", "accuracy", "balanced"}


class Fence(NamedTuple):
    """A block of code in a markdown file."""

    path: Path
    line: int  # of its first line of code, from 1
    language: str
    heading: str
    code: str

    def run(self) -> None:
        """Execute it as a program of its own; a warning is an error."""
        padded = "\n" * (self.line - 1) + self.code  # so that tracebacks have the file's lines
        program = compile(padded, str(self.path), "exec", dont_inherit=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(program, {"__name__": "__main__"})


def fences(path: Path, language: str) -> list[Fence]:
    """The fences of `language` in the file at `path`, in order."""
    found, heading, start, opened = [], "", 0, ""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.startswith("```") and not start:
            start, opened = number + 1, line[3:].strip()
        elif line.startswith("```"):
            assert line == "```", f"{path}:{number}: a fence begins within a fence"
            code = "\n".join(lines[start - 1 : number - 1]) + "\n"
            found.append(Fence(path, start, opened, heading, code))
            start = 0
        elif line.startswith("#") and not start:
            heading = line.lstrip("#").strip()
    assert not start, f"{path}:{start}: a fence without an end"
    return [fence for fence in found if fence.language == language]


def prose(path: Path) -> str:
    """The text of the file without its fences."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def as_parameters(found: list[Fence]) -> list[Any]:
    """One pytest parameter a fence; its id is the heading above it."""
    seen: Counter[str] = Counter()
    parameters = []
    for fence in found:
        seen[fence.heading] += 1
        number = f" ({seen[fence.heading]})" if seen[fence.heading] > 1 else ""
        parameters.append(pytest.param(fence, id=fence.heading + number))
    return parameters


NOTES_FENCES = fences(NOTES, "python")
README_FENCES = fences(README, "python")


# ---- the examples


@pytest.mark.parametrize(
    "fence",
    as_parameters(NOTES_FENCES + [f for f in README_FENCES if f.heading not in README_NEEDS_A_RUN]),
)
def test_an_example_runs(fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fence.run()
    assert not list(tmp_path.iterdir()), "an example leaves files behind"


def test_examples_of_the_readme_that_are_left_out_are_there_and_fail_only_for_lack_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left_out = [fence for fence in README_FENCES if fence.heading in README_NEEDS_A_RUN]
    assert {fence.heading for fence in left_out} == README_NEEDS_A_RUN
    for fence in left_out:
        with pytest.raises(UserError, match="runs/"):
            fence.run()


def test_examples_of_the_readme_use_public_names_and_settings_that_exist() -> None:
    names, settings = set(), {}
    for fence in README_FENCES:
        for node in ast.walk(ast.parse(fence.code)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "up":
                names.add(node.attr)
            if isinstance(node, ast.keyword) and node.arg == "overrides":
                settings |= ast.literal_eval(node.value)
    assert names
    assert names <= set(unet_pipeline.__all__)
    load_config(overrides=settings)


def test_examples_hold_asserts_and_need_no_test_tools() -> None:
    for fence in NOTES_FENCES:
        nodes = list(ast.walk(ast.parse(fence.code)))
        assert any(isinstance(node, ast.Assert) for node in nodes), fence.heading
        assert "pytest" not in fence.code


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from unet_pipeline.stages.prepare import prepare

    folder = tmp_path_factory.mktemp("data") / "scenes"
    overrides = {"output": str(folder), "num_scenes": 8}
    return prepare(load_config(overrides=overrides, kind=PrepareConfig)).folder


def commands() -> list[Any]:
    lines = [line for f in fences(NOTES, "console") for line in f.code.splitlines()]
    return [pytest.param(line, id=line) for line in lines]


@pytest.mark.parametrize("line", commands())
def test_a_command_is_accepted(
    line: str,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`unet list` is run, `unet train` planned: it checks every name and option of a component."""
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(line)
    assert program == "unet"
    if arguments[0] == "train":
        assert arguments[1:3] == ["--data", "D"]
        rest = [argument for argument in arguments[3:] if argument != "--baselines"]
        arguments = ["train", "--data", str(dataset), "--dry-run", *rest]
    code = cli.run(arguments)
    output = capsys.readouterr()
    assert code == 0, output.err
    assert output.out
    assert not list(tmp_path.iterdir())


# ---- what the text names


def test_the_twelve_steps_are_there_in_order_each_with_its_place_and_an_example() -> None:
    sections = re.split(r"^## ", NOTES.read_text(encoding="utf-8"), flags=re.M)[1:]
    headings = [section.partition("\n")[0] for section in sections]
    assert len(headings) == 13  # and the slips
    for number, (heading, words) in enumerate(zip(headings, STEPS, strict=False), start=1):
        assert re.match(rf"{number}\. ", heading)
        assert words.lower() in heading.lower()
    for section in sections[:12]:
        assert re.search(r"^Now: `", section, flags=re.M), section[:30]
        assert "```python\n" in section, section[:30]
    assert "ladder" in headings[11]
    assert "unet train --data D --baselines\n" in sections[11]


def test_the_five_slips_are_there_each_with_what_holds_it() -> None:
    _, _, text = NOTES.read_text(encoding="utf-8").partition("\n## Five slips")
    sections = text.split("\n### ")[1:]
    assert len(sections) == len(SLIPS)
    for section, words in zip(sections, SLIPS, strict=True):
        assert words in section.partition("\n")[0]
        assert section.count("\nHeld by ") == section.count("```python\n") == 1


def definitions(path: Path) -> set[str]:
    """The names that a Python file defines itself, at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_file_that_is_named_exists() -> None:
    paths = re.findall(r"[\w./-]+\.py\b", prose(NOTES))
    assert len(set(paths)) > 12
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_every_name_lives_in_the_file_that_is_named_with_it() -> None:
    text = " ".join(prose(NOTES).split())
    listed = re.findall(r"((?:`\w+`(?:, | and )?)+) in `([\w/]+\.py)`", text)
    places = [(name, path) for names, path in listed for name in re.findall(r"`(\w+)`", names)]
    assert len(places) > 24
    absent = [(name, path) for name, path in places if name not in definitions(ROOT / path)]
    assert absent == []


def test_every_dotted_name_resolves() -> None:
    names = re.findall(r"`(unet_pipeline(?:\.\w+)+)`", prose(NOTES))
    assert names
    for name in names:
        assert pkgutil.resolve_name(name) is not None
    imports = [
        (node.module, alias.name)
        for fence in NOTES_FENCES
        for node in ast.walk(ast.parse(fence.code))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("unet_pipeline")
        for alias in node.names
    ]
    assert len(imports) > 20
    for module, name in imports:
        assert pkgutil.resolve_name(f"{module}:{name}") is not None


def test_every_backticked_word_is_a_name() -> None:
    known = {*dir(nn), *CRITERIA, *LOSSES, *OTHER_WORDS}
    for folder in ("unet_pipeline", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            known |= definitions(path)
    words = set(re.findall(r"`(\w+)`", prose(NOTES)))
    assert words - known == set()
    assert words >= OTHER_WORDS


def test_the_table_has_every_criterion_with_its_dense_name() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in prose(NOTES).splitlines()
        if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == list(CRITERIA)
    for name, inputs, target, dense in rows:
        criterion = CRITERIA[name.strip("`")]
        assert inputs == criterion.inputs
        assert target
        if criterion.dense is not None:
            assert dense == f"`{criterion.dense}`"
            assert parse_loss(criterion.dense, num_classes=3).terms[0].entry in LOSSES
        else:
            reason = dense.removeprefix("none: ")
            assert dense == f"none: {reason}"
            assert criterion.reason.startswith(reason)
            with pytest.raises(UserError, match=re.escape(reason)):
                parse_loss(name.strip("`"))


def test_lines_have_a_hundred_characters_at_most() -> None:
    lines = NOTES.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100] == []


def test_no_file_of_the_package_takes_a_gpu_for_granted() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "unet_pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "cuda"
    ]
    assert found == []


# ---- the runner itself can fail


def written(tmp_path: Path, code: str) -> Fence:
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n## Part\n\nText.\n\n```python\n{code}\n```\n", encoding="utf-8")
    (fence,) = fences(path, "python")
    return fence


def test_a_wrong_assert_fails_and_the_traceback_has_its_line(tmp_path: Path) -> None:
    fence = written(tmp_path, "value = 1\nassert value == 2")
    assert fence.heading == "Part"
    with pytest.raises(AssertionError) as caught:
        fence.run()
    last = caught.traceback[-1]
    assert (Path(str(last.path)), last.lineno + 1) == (fence.path, 9)
    written(tmp_path, "value = 1\nassert value == 1").run()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import warnings\nwarnings.warn('a warning')", UserWarning),
        ("import warnings\nwarnings.warn('old', DeprecationWarning)", DeprecationWarning),
        ("print(left_over)", NameError),
        ("import unet_pipeline\nunet_pipeline.Unet", AttributeError),
        ("if True", SyntaxError),
    ],
)
def test_a_warning_and_what_a_reader_would_meet_fail_too(
    code: str, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        written(tmp_path, code).run()


def test_an_example_sees_nothing_of_the_one_before(tmp_path: Path) -> None:
    written(tmp_path, "left_over = 1").run()
    with pytest.raises(NameError):
        written(tmp_path, "print(left_over)").run()


def test_a_fence_without_an_end_is_no_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nassert False\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="a fence without an end"):
        fences(page, "python")


def test_a_comment_in_a_fence_is_no_heading(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```console\n# word\n```\n\n```python\npass\n```\n", encoding="utf-8")
    assert [fence.heading for fence in fences(page, "python")] == ["Page"]
    assert [fence.code for fence in fences(page, "console")] == ["# word\n"]


def test_the_page_about_data_knows_every_finding_and_every_format() -> None:
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", text))
    assert set(CODES) <= named, set(CODES) - named
    assert set(FORMATS) <= named, set(FORMATS) - named
    assert set(EXPORTS) <= named
