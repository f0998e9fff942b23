"""Energy: more work costs more, waiting next to nothing, nothing is asked of the network, counters are read rightly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.card import training_of
from pipeline.core.params import UserError
from pipeline.fitting.energy import (
    WATTS_A_GIB,
    WATTS_A_THREAD,
    Meter,
    counters,
    country_of,
    design_power,
    intensity,
    spent,
    told,
    watts_a_thread,
)
from tests.conftest import ROOT, set_params

NOWHERE = Path("/no/such/powercap")


def work(seconds: float) -> float:
    """Keep this process busy for so many seconds of CPU; give those it took."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        sum(range(1000))
    return time.process_time() - began


def burnt(meter: Meter, seconds: float) -> tuple[float, float]:
    """Joules of so much work less those of memory, which cost as the clock goes; and the CPU seconds it took."""
    meter.joules()
    began = time.monotonic()
    taken = work(seconds) if seconds else time.sleep(0.2) or 0.0
    joules = meter.joules()
    memory = WATTS_A_GIB * psutil.Process().memory_info().rss / 2**30
    return joules - memory * (time.monotonic() - began), taken


def test_work_costs_its_cpu_seconds_and_waiting_next_to_nothing() -> None:
    meter = Meter(powercap=NOWHERE)
    idle, _ = burnt(meter, 0)
    once, first = burnt(meter, 0.2)
    twice, second = burnt(meter, 0.4)
    watts = watts_a_thread(Path("/proc/cpuinfo"))
    assert -0.02 < idle < once / 4
    assert once == pytest.approx(watts * first, rel=0.2)
    assert twice == pytest.approx(watts * second, rel=0.2)
    assert 1.5 < twice / once < 2.7
    assert "estimated" in meter.how


def test_asking_costs_well_under_a_hundredth_of_an_epoch() -> None:
    meter = Meter()
    began = time.process_time()
    for _ in range(200):
        assert meter.joules() >= 0
    assert (time.process_time() - began) / 200 < 0.005


def test_no_other_process_is_counted() -> None:
    """So two workers at once are counted once each: what one burns, the other's meter does not see."""
    meter = Meter(powercap=NOWHERE)
    busy = "import time\nwhile time.process_time() < 0.5: sum(range(1000))"
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert meter.joules() < 0.5 * WATTS_A_THREAD


def domain(folder: Path, name: str, microjoules: int, full: int = 10**9) -> Path:
    """A RAPL domain as the kernel shows it."""
    folder.mkdir(parents=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", full)):
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


def test_counters_are_added_up_once_each_and_turn_over(tmp_path: Path) -> None:
    first = domain(tmp_path / "intel-rapl:0", "package-0", 999_000_000)
    domain(tmp_path / "intel-rapl:1", "package-1", 999_000_100)  # the same counter, read a moment later
    domain(tmp_path / "intel-rapl:2", "package-2", 5_000_000)
    domain(tmp_path / "intel-rapl:3", "psys", 7_000_000)
    domain(tmp_path / "intel-rapl:0:0", "core", 9_000_000)
    found = counters(tmp_path)
    assert len(found) == 2
    before = sum(each.joules() for each in found)
    first.write_text("2000000\n")  # it was full at 1,000 J
    assert sum(each.joules() for each in found) - before == pytest.approx(3.0)


def test_a_process_answers_for_its_part_of_what_was_measured(tmp_path: Path) -> None:
    counter = domain(tmp_path / "intel-rapl:0", "package-0", 1_000_000)
    meter = Meter(powercap=tmp_path)
    assert "measured" in meter.how
    counter.write_text("41000000\n")
    work(0.2)
    assert 0 < meter.joules() <= 40.5  # all of it, had nobody else worked
    counter.write_text("1000\n")  # reset, as after a sleep: never negative
    assert meter.joules() >= 0
    assert meter.joules() >= 0


def test_counters_that_may_not_be_read_are_estimated_for(tmp_path: Path) -> None:
    domain(tmp_path / "intel-rapl:0", "package-0", 1).unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # reading it fails, for root too
    assert counters(tmp_path) == []
    assert "estimated" in Meter(powercap=tmp_path).how
    assert counters(NOWHERE) == []


def test_the_watts_of_a_chip_are_those_that_codecarbon_finds() -> None:
    from codecarbon.core.cpu import TDP
    from codecarbon.input import DataSource

    table, finder = DataSource().get_cpu_power_data(), TDP.__new__(TDP)
    for model in (
        "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz",
        "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz",
        "AMD EPYC 7763 64-Core Processor",
        "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
        "Intel(R) Xeon(R) Processor",
        "Some chip of tomorrow",
    ):
        match = finder._get_matching_cpu(model, table)
        expected = None if match is None else finder._get_cpu_constant_power(match, table)
        assert design_power(model) == expected, model


@pytest.mark.parametrize(
    ("flags", "model", "watts"),
    [
        ("fpu", "AMD EPYC 7763 64-Core Processor", 280 / 128),
        ("fpu hypervisor avx", "AMD EPYC 7763 64-Core Processor", WATTS_A_THREAD),  # of which it sees a part
        ("fpu", "Nobody's", WATTS_A_THREAD),
    ],
)
def test_a_thread_takes_its_part_of_the_chip(tmp_path: Path, flags: str, model: str, watts: float) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: {model}\nsiblings\t: 128\nflags\t\t: {flags}\n")
    assert watts_a_thread(tmp_path / "cpuinfo") == pytest.approx(watts)
    assert watts_a_thread(tmp_path / "nothing") == WATTS_A_THREAD


def test_carbon_is_that_of_codecarbon() -> None:
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    emissions = Emissions(DataSource())
    for country in ("FRA", "POL", "USA", ""):
        theirs = emissions.get_country_emissions(Energy.from_energy(kWh=2), GeoMetadata(country, country))
        assert spent(7.2e6, country)["carbon_kg"] == pytest.approx(theirs)
    assert intensity("FRA") < intensity("") < intensity("POL")


def test_a_country_that_is_not_known_is_told(project: Path) -> None:
    set_params(project, {"tracking.country": "XXX"})
    with pytest.raises(UserError, match=r"tracking.country is 'XXX'.*leave it empty.*FRA"):
        country_of()
    set_params(project, {"tracking.country": "NOR"})
    assert country_of() == "NOR"


def test_nothing_is_asked_of_the_network_and_no_file_is_written(tmp_path: Path) -> None:
    """In a process of its own, where a socket is an error."""
    code = (
        "import socket\n"
        "def refused(*_, **__): raise AssertionError('a socket was opened')\n"
        "socket.socket = socket.create_connection = refused\n"
        "from pipeline.fitting.energy import Meter, spent\n"
        "meter = Meter()\n"
        "print(spent(meter.joules(), 'DEU'), meter.how)\n"
        "import sys\n"
        "assert not {'codecarbon', 'pandas', 'torch'} & set(sys.modules), 'a heavy import'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "carbon_kg" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_energy_is_told_in_words() -> None:
    energy = {**spent(7200.0, ""), "how": "CPU estimated"}
    assert told(spent(7200.0, "")) == "2 Wh (0.95 g of CO2)"
    assert training_of({"energy": energy}) == {
        "Energy of the training": "2 Wh, 0.95 g of CO2 (CPU estimated)"
    }
    assert training_of({}) == {}


def test_an_epoch_reports_its_joules(tmp_path: Path) -> None:
    from pipeline.fitting.fit import fit
    from tests.small import blobs, table_job

    told: list[dict[str, float]] = []
    job = table_job(tmp_path, blobs(200, 1), blobs(60, 2), {"max_epochs": 3})
    fit(job, [lambda epoch, metrics: told.append(metrics)])
    assert len(told) == 3
    assert all(metrics["joules"] > 0 for metrics in told)
