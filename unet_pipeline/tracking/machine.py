"""How busy the machine is while a run goes on, as MLflow's page of system metrics shows it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Values = dict[str, float]

_LEAST_SECONDS = 10.0
_SHARE = 0.02  # of the time so far, between two points: 150 in the first hour, 310 in a day


class MachineWatch:
    """Reads the load of the machine now and then, in a thread of its own.

    folder: of the run, whose disk counts. report: called with values by name, and a step: the
    seconds since the run began, of which `seconds` have gone by. The names are those of MLflow's
    own monitor. NVIDIA's cards are read where their driver answers.
    """

    def __init__(
        self, folder: Path, report: Callable[[Values, int], None], *, seconds: float = 0.0
    ) -> None:
        self._folder = folder
        self._report = report
        self._began = time.monotonic() - seconds
        self._ended = threading.Event()
        self._readers: list[Callable[[], Values]] = []
        self._open = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._work, name="unet-machine", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        # Imported here, not in the thread: a loader's worker that is forked meanwhile would hang
        self._readers = [_host(self._folder), self._open.enter_context(_graphics_cards())]
        self._thread.start()

    def stop(self) -> None:
        """Read for the last time, and end."""
        if self._thread.is_alive():
            self._ended.set()
            self._thread.join(timeout=2.0)
        self._open.close()

    def _work(self) -> None:
        last = False
        while not last:
            elapsed = time.monotonic() - self._began
            last = self._ended.wait(max(_LEAST_SECONDS, _SHARE * elapsed))
            values: Values = {}
            for read in self._readers:
                with contextlib.suppress(OSError):
                    values |= read()
            self._report(values, int(time.monotonic() - self._began))


def _host(folder: Path) -> Callable[[], Values]:
    """What reads processor, memory and disk."""
    import psutil

    process = psutil.Process()
    psutil.cpu_percent()  # the first call begins to count

    def read() -> Values:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / 1e6,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_usage_megabytes": process.memory_info().rss / 1e6,
            "system/disk_available_megabytes": disk.free / 1e6,
            "system/disk_usage_percentage": disk.percent,
        }

    return read


@contextlib.contextmanager
def _graphics_cards() -> Iterator[Callable[[], Values]]:
    """What reads NVIDIA's cards; it gives nothing where there are none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001, no card, no driver, or one that the library does not know
        yield dict
        return

    def read() -> Values:
        values: Values = {}
        for number in range(pynvml.nvmlDeviceGetCount()):
            card, name = pynvml.nvmlDeviceGetHandleByIndex(number), f"system/gpu_{number}"
            with contextlib.suppress(pynvml.NVMLError):
                memory = pynvml.nvmlDeviceGetMemoryInfo(card)
                values[f"{name}_memory_usage_megabytes"] = memory.used / 1e6
                values[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
            with contextlib.suppress(pynvml.NVMLError):
                rates = pynvml.nvmlDeviceGetUtilizationRates(card)
                values[f"{name}_utilization_percentage"] = rates.gpu
            with contextlib.suppress(pynvml.NVMLError):
                values[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(card) / 1000
        return values

    try:
        yield read
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
