"""The load of the machine beside the curves of a run."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from unet_pipeline import tracking
from unet_pipeline.tracking import machine
from unet_pipeline.tracking.spool import Spool


def test_the_load_is_read_at_first_often_then_rarely_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[dict[str, float], int]] = []
    third = threading.Event()
    monkeypatch.setattr(machine, "_LEAST_SECONDS", 0.01)

    def report(values: dict[str, float], step: int) -> None:
        said.append((values, step))
        if len(said) == 3:
            third.set()

    watch = machine.MachineWatch(tmp_path, report, seconds=0.2)
    watch.start()
    assert third.wait(30)
    watch.stop()
    for values, _ in said:
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100
        assert values["system/process_memory_usage_megabytes"] > 10
        assert values["system/system_memory_usage_megabytes"] > 10
    count = len(said)
    slow = machine.MachineWatch(tmp_path, report, seconds=1e6)  # the next is due in hours
    slow.start()
    slow.stop()
    assert [step for _, step in said[count:]] == [1_000_000]


def test_cards_are_read_where_a_driver_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no card here: the library is stood in for."""

    class NVMLError(Exception):
        pass

    def refuse(card: int) -> Any:
        raise NVMLError

    ended: list[bool] = []
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: ended.append(True),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=93),
        nvmlDeviceGetPowerUsage=refuse,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with machine._graphics_cards() as read:
        values = read()
    assert values["system/gpu_1_memory_usage_megabytes"] == 2000
    assert values["system/gpu_1_memory_usage_percentage"] == 25
    assert values["system/gpu_0_utilization_percentage"] == 93
    assert not any("power" in name for name in values)
    assert ended == [True]


def test_a_run_has_the_load_until_it_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run = tracking.start(folder, experiment="cells", run_name="r", params={}, tags={}, send=False)
    run.watch_machine()
    run.close("FINISHED")
    records = [record for record, _ in Spool(folder).read()]
    assert "system/cpu_utilization_percentage" in records[-2]["values"]
    assert records[-1]["kind"] == "status"
    assert not any(thread.name == "unet-machine" for thread in threading.enumerate())
