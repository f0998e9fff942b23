"""A study in a database is searched by one session at a time, wherever its folder is; a dead one holds nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import optuna
import pytest

from pipeline.core.params import UserError
from pipeline.core.pulse import pulse
from pipeline.tuning import holding
from pipeline.tuning.holding import HELD, held, holder
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import open_study
from tests.studies import apart

REFUSED = r"^the study 'one' is searched by process \d+ of .*wait until it ends"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.setattr(holding, "BEAT", 0.2)
    return opened(tmp_path)


def opened(folder: Path) -> optuna.Study:
    return open_study(f"sqlite:///{folder}/studies.db", "one", Tune())


def hold(folder: Path) -> None:
    """What another session does: holds the study until it is killed."""
    with held(opened(folder)):
        (folder / "holds").touch()
        time.sleep(60)


def test_a_study_that_another_process_searches_is_refused_until_that_is_dead(
    study: optuna.Study, tmp_path: Path
) -> None:
    other = apart(lambda: hold(tmp_path))
    while not (tmp_path / "holds").exists():
        assert other.is_alive()
        time.sleep(0.02)
    before = study.user_attrs[HELD][:4]
    for _ in range(2):
        with (
            pytest.raises(UserError, match=REFUSED.replace("of .*", "of this machine.*")) as error,
            held(study),
        ):
            pytest.fail("it was held")
        assert str(other.pid) in str(error.value)
    assert study.user_attrs[HELD][:4] == before, "nothing was changed"
    os.kill(other.pid or 0, signal.SIGKILL)
    other.join()
    with held(study):
        assert study.user_attrs[HELD][1] == os.getpid()
        with pytest.raises(UserError, match=REFUSED), held(opened(tmp_path)):
            pytest.fail("it was held")
    assert holder(study) == []


def test_a_number_that_another_process_has_by_now_holds_nothing(study: optuna.Study) -> None:
    study.set_user_attr(HELD, [holding.machine(), os.getpid(), 1.0, 1.0, 7])
    with held(study):
        pass


def test_a_holder_that_lives_holds_the_study_though_the_clock_was_set_since(
    study: optuna.Study, tmp_path: Path
) -> None:
    """What the system says of when a process began moves with the clock."""
    same, count = opened(tmp_path), iter(range(10_000))

    def beat() -> None:
        same.set_user_attr(HELD, [holding.machine(), os.getpid(), 1.0, 1.0, next(count)])

    beat()
    with pulse(beat, 0.2, "same"), pytest.raises(UserError, match=REFUSED), held(study):
        pytest.fail("it was held")


@pytest.mark.parametrize("garbage", [5, True, "x", {"a": 1}, [], ["x"], [1, 2, 3, 4, 5],
                                     *([holding.machine(), *rest] for rest in (
                                         [], ["12", 1.0, 1.0, 1], [None] * 4, [-5, 1.0, 1.0, 1], [10**30, 1, 1, 1],
                                         [12, "x", 1.0, 1], [12, 1.0, 1.0]))])  # fmt: skip
def test_what_no_holder_wrote_holds_nothing(study: optuna.Study, garbage: object) -> None:
    study.set_user_attr(HELD, garbage)
    with held(study):
        assert study.user_attrs[HELD][1] == os.getpid()
    assert study.user_attrs[HELD] == []


def test_on_another_machine_who_beats_lives(
    study: optuna.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far, count = opened(tmp_path), iter(range(10_000))

    def beat() -> None:
        far.set_user_attr(HELD, ["far/7", 12, 1.0, 1.0, next(count)])

    beat()
    with pulse(beat, 0.2, "far"), pytest.raises(UserError, match=r"process 12 of 'far'"), held(study):
        pytest.fail("it was held")
    assert "last searched on 'far'" in capsys.readouterr().err
    began = time.monotonic()
    with held(study):
        assert time.monotonic() - began >= holding.BEAT * holding.BEATS, "it was listened for"
        assert study.user_attrs[HELD][1] == os.getpid()


def test_who_was_away_for_so_long_that_another_took_the_study_is_interrupted(study: optuna.Study) -> None:
    def lose() -> None:
        with held(study):
            study.set_user_attr(HELD, ["far/7", 12, 1.0, 1.0, 1])
            time.sleep(30)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        lose()
    assert time.monotonic() - began < 20
    assert study.user_attrs[HELD][0] == "far/7", "what the other holds is left to it"
