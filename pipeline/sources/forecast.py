"""Windows of long series, with the steps that follow each as what is to be forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.params import UserError
from pipeline.extras import folder_of
from pipeline.sources import long
from pipeline.sources.base import Data
from pipeline.sources.files import TABLES, files_below, header, strangers
from pipeline.sources.learnt import Learnt
from pipeline.sources.samples import Sample, check_columns, same_columns
from pipeline.sources.series import SeriesSource
from serving.inputs.spec import SeriesInput


class ForecastSource(SeriesSource):
    """Tables with a row a step; every other column is a channel, and `data.target` names those to forecast.

    A sample is a window of `data.window` steps, and its targets are the next `data.horizon` steps of each of these
    channels; windows begin `data.stride` steps apart. Windows that end in nothing, or
    after which a step to forecast is missing, are left out.
    The split goes by the time of a window's last target, so the test lies after all that was trained on.
    """

    splitting = ("time", "begin")

    def __init__(self, data: Data, files: Sequence[Path], tell_series: bool = True) -> None:
        super().__init__(data)
        if not data.horizon:
            raise UserError("data.horizon is 0: give the number of steps to forecast")
        self._files, self._names = files, {file: header(file) for file in files}
        names = same_columns(data, {file.name: found for file, found in self._names.items()})
        check_columns(data, names, {"time": data.time}, files[0].name)
        self._series = data.series_id if tell_series and data.series_id in names else ""
        self.channels = tuple(name for name in names if name not in {self._series, data.time, *data.drop})
        self.forecasts = data.target or self.channels[-1:]
        if unknown := [name for name in self.forecasts if name not in self.channels]:
            raise UserError(
                f"data.target: '{unknown[0]}' is no channel; there are {', '.join(self.channels)}"
            )
        steps = range(1, data.horizon + 1)
        self.learnt = Learnt(
            tuple(f"{name}+{step}" for name in self.forecasts for step in steps), "regression"
        )
        self.count = sum(1 for _ in self.samples())
        if not self.count:
            raise UserError(
                f"data.path: no series has {data.window} + {data.horizon} steps, so there is no window to learn from; "
                "see data.window and data.horizon"
            )

    @property
    def takes(self) -> SeriesInput:
        """Windows of one length."""
        window = self.data.window
        return SeriesInput(
            channels=self.channels, min_steps=window, max_steps=window,
            horizon=self.data.horizon, forecasts=self.forecasts, stride=self.data.stride,
        )  # fmt: skip

    def _whole(self, file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The series of a file: name, times (T,), values (T, C), in the order of time."""
        wanted = tuple(name for name in (self._series, self.data.time) if name)
        table = long.load(file, self._names[file], (*wanted, *self.channels), self.channels)
        values = np.stack([table[name].to_numpy() for name in self.channels], axis=1).astype(np.float64)
        count = len(values)
        times = long.times_of(table[self.data.time], file.name) if self.data.time else np.arange(count)
        codes, names = (
            long.coded(table[self._series]) if self._series else (np.zeros(count, np.int64), ["all"])
        )
        for code, name in enumerate(names):
            rows = np.flatnonzero(codes == code)
            rows = rows[np.argsort(times[rows], kind="stable")]
            if len(twice := np.flatnonzero(np.diff(times[rows]) == 0)):
                first, second = sorted(rows[twice[0] : twice[0] + 2] + 2)
                raise UserError(f"{file.name}: lines {first} and {second} have the same time")
            yield str(name), times[rows].astype(np.float64), values[rows]

    def samples(self) -> Iterator[Sample]:
        """The windows of every series."""
        window, horizon = self.data.window, self.data.horizon
        columns = [self.channels.index(name) for name in self.forecasts]
        for file in self._files:
            for name, times, values in self._whole(file):
                for start in range(0, len(values) - window - horizon + 1, self.data.stride):
                    end = start + window
                    targets = values[end : end + horizon, columns].T.ravel()
                    if not np.isnan(targets).any() and not np.isnan(values[end - 1]).all():
                        yield Sample(
                            f"{file.name}:{name}:{start}", values[start:end], tuple(targets.tolist()),
                            {"time": times[end + horizon - 1], "begin": times[end]},
                        )  # fmt: skip

    def left_out(self) -> list[str]:
        """Files of other kinds, and folders."""
        return strangers(self.data.path, TABLES)


def own(data: Data) -> SeriesSource:
    """The user's own tables."""
    return ForecastSource(data, files_below(data.path, TABLES))


class EcgSource(ForecastSource):
    """A minute of the MIT-BIH electrocardiograms, 7,500 steps of one voltage in mV (Moody and Mark, 2001)."""

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


def ecg(data: Data) -> SeriesSource:
    """The recording that the package `sktime` ships (BSD-3); its column of change points is left out."""
    file = folder_of(data.source) / "datasets" / "data" / "mitdb" / "mitdb.csv"
    return EcgSource(data.model_copy(update={"drop": (*data.drop, "label")}), [file], tell_series=False)
