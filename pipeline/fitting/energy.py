"""Energy that this process spends, and the carbon that the grid emits for it; nothing is asked of the network.

What a CPU spends is measured where its counters (RAPL) can be read, and shared out by CPU time: this process answers
for its part of what the whole machine computed. Elsewhere it is estimated: CPU seconds times the watts of a busy
thread. Memory is estimated everywhere; an NVIDIA GPU is measured by its own counter. So workers side by side count
nothing twice. The tables of chips and of countries are codecarbon's.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.core.params import UserError, section
from pipeline.mlflow_store import Tracking

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")
WATTS_A_THREAD = (
    4.0  # busy, of a chip that is not known, or of which a virtual machine shows a part (codecarbon)
)
WATTS_A_GIB = 0.3725  # of memory in use (Lannelongue et al., "Green Algorithms", 2021)
KWH = 3.6e6  # joules
MIRROR = 1.0  # joules by which two counters of one socket may differ when read one after the other


class Meter:
    """Joules of this process since the call before; `how` says where they come from."""

    def __init__(self, device: torch.device | None = None, powercap: Path = POWERCAP) -> None:
        self._counters = counters(powercap)
        self._gpu = Gpu(device) if device is not None and device.type == "cuda" else None
        self._watts = watts_a_thread(CPUINFO)
        self._before = self._read()

    @property
    def how(self) -> str:
        """What was measured and what was estimated."""
        cpu = (
            "CPU measured (RAPL), shared out by CPU time"
            if self._counters
            else f"CPU estimated at {self._watts:.1f} W a busy thread"
        )
        return f"{cpu}; memory estimated{'; GPU ' + self._gpu.how if self._gpu else ''}"

    def joules(self) -> float:
        """What was spent since the call before, or since the beginning; costs less than a millisecond."""
        before, self._before = self._before, self._read()
        wall, own, busy, spent = (now - then for now, then in zip(self._before, before, strict=True))
        cpu = own * self._watts
        if self._counters:
            cpu = max(spent, 0.0) * min(own / busy if busy > 0 else 0.0, 1.0)
        memory = wall * WATTS_A_GIB * psutil.Process().memory_info().rss / 2**30
        return max(cpu, 0.0) + memory + (self._gpu.joules() if self._gpu else 0.0)

    def _read(self) -> tuple[float, float, float, float]:
        """Seconds on the clock, of this process, of all processes; joules of all packages."""
        if not self._counters:
            return time.monotonic(), time.process_time(), 0.0, 0.0
        times = psutil.cpu_times()
        busy = times.user + times.system + getattr(times, "nice", 0.0)
        return time.monotonic(), time.process_time(), busy, sum(each.joules() for each in self._counters)


class Counter:
    """One RAPL domain, whose count of microjoules starts again when it is full."""

    def __init__(self, folder: Path) -> None:
        self._file, self._turns = folder / "energy_uj", 0
        self._full, self._last = int((folder / "max_energy_range_uj").read_text()), 0
        self._last = int(self._file.read_text())

    def joules(self) -> float:
        """Joules since some beginning."""
        try:
            now = int(self._file.read_text())
        except (OSError, ValueError):
            now = self._last  # what cannot be read just now counts with the next reading
        self._turns += now < self._last
        self._last = now
        return (self._turns * self._full + now) / 1e6


def counters(powercap: Path) -> list[Counter]:
    """The counters of the machine's CPU packages; none where one is missing or may not be read."""
    found: list[Counter] = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue  # parts of a package, or the whole platform
            counter = Counter(folder)
        except (OSError, ValueError):
            return []
        twice = any(abs(counter.joules() - other.joules()) < MIRROR for other in found)
        if not twice:  # several dies of one socket show the same counter
            found.append(counter)
    return found


class Gpu:
    """The GPU that this process uses, shared out evenly among those that compute on it."""

    def __init__(self, device: torch.device) -> None:
        self.how = "measured (NVML)"
        try:
            import pynvml
            import torch

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._nvml: Any = pynvml
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode())
            self._last = self._count()
        except Exception as error:  # NVML's errors are of its own, and a meter must not end a training
            self.how = f"not counted ({type(error).__name__})"
            self._nvml = None

    def _count(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000

    def joules(self) -> float:
        """What this process's part of the GPU spent since the call before."""
        if self._nvml is None:
            return 0.0
        try:
            now = self._count()
            sharing = len(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        except self._nvml.NVMLError:
            return 0.0
        spent, self._last = now - self._last, now
        return max(spent, 0.0) / max(sharing, 1)


@cache
def watts_a_thread(cpuinfo: Path) -> float:
    """Watts of one busy thread: the chip's thermal design power over its threads, where chip and threads are known."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return WATTS_A_THREAD
    model = re.search(r"^model name\s*: (.*)$", text, re.M)
    threads = re.search(r"^siblings\s*: (\d+)$", text, re.M)
    if model is None or threads is None or re.search(r"^flags\s*:.*\bhypervisor\b", text, re.M):
        return WATTS_A_THREAD
    watts = design_power(model[1])
    return watts / int(threads[1]) if watts else WATTS_A_THREAD


def design_power(model: str) -> float | None:
    """Watts of a chip by codecarbon's table: the entry with most words that are all in the model's name.

    >>> design_power("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz")
    120.0
    """
    words = set(re.sub(r"\((r|tm)\)|@.*", " ", model.lower()).split()) - {"cpu", "processor"}
    best, watts = 0, None
    with (_tables() / "hardware" / "cpu_power.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            named = set(row["Name"].lower().split()) - {"cpu", "processor"}
            telling = any(character.isdigit() for word in named for character in word)
            if telling and named <= words and len(named) > best:
                best, watts = len(named), float(row["TDP"])
    return watts


def intensity(country: str) -> float:
    """Kilograms of CO2 equivalents a kWh of a country (ISO 3166, three letters); of the world where none is given.

    Raises:
        UserError: codecarbon's table does not know the country.
    """
    folder = _tables() / "private_infra"
    if not country:
        return (
            float(json.loads((folder / "carbon_intensity_per_source.json").read_text())["world_average"])
            / 1000
        )
    mix = json.loads((folder / "global_energy_mix.json").read_text())
    if mix.get(country, {}).get("carbon_intensity") is None:
        known = ", ".join(
            sorted(code for code, each in mix.items() if each.get("carbon_intensity") is not None)
        )
        raise UserError(
            f"tracking.country is '{country}', of which nothing is known; leave it empty for the world's mean, "
            f"or take one of {known}"
        )
    return float(mix[country]["carbon_intensity"]) / 1000


def spent(joules: float, country: str) -> dict[str, float]:
    """An amount of energy as metrics of a run.

    >>> spent(7.2e6, "")
    {'energy_joules': 7200000.0, 'energy_kwh': 2.0, 'carbon_kg': 0.95}
    """
    kwh = joules / KWH
    return {"energy_joules": joules, "energy_kwh": kwh, "carbon_kg": kwh * intensity(country)}


def country_of() -> str:
    """The country of `tracking.country`.

    Raises:
        UserError: nothing is known of it; said before anything is fitted.
    """
    country = section("tracking", Tracking).country
    intensity(country)
    return country


def told(spent: dict[str, float]) -> str:
    """An amount of energy in words.

    >>> told({"energy_joules": 7200.0, "energy_kwh": 0.002, "carbon_kg": 0.00095})
    '2 Wh (0.95 g of CO2)'
    """
    return f"{1000 * spent['energy_kwh']:.3g} Wh ({1000 * spent['carbon_kg']:.2g} g of CO2)"


def _tables() -> Path:
    """Codecarbon's data, found without importing it."""
    found = importlib.util.find_spec("codecarbon")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data"
