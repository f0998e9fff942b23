"""Windows of long series, with the steps that follow each as what is to be forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.params import UserError
from pipeline.extras import folder_of
from pipeline.sources import long
from pipeline.sources.base import Data
from pipeline.sources.files import files_below, strangers
from pipeline.sources.learnt import Learnt
from pipeline.sources.samples import Sample, check_columns, same_columns
from pipeline.sources.series import SeriesSource
from pipeline.sources.tablefiles import KNOWN
from serving.inputs.body import BadInput
from serving.inputs.spec import SeriesInput
from serving.inputs.table import is_missing


def check_asked(data: Data) -> None:
    """Refuse what a forecast has no use for, and a forecast of nothing.

    Raises:
        UserError: there are no steps to forecast, or a key is given that would do nothing.
    """
    if not data.horizon:
        raise UserError("data.horizon is 0: give the number of steps to forecast")
    if data.task not in ("auto", "regression"):
        raise UserError(f"data.task: a forecast is a regression; found '{data.task}', leave it at 'auto'")
    if unused := [key for key in ("group", "split") if getattr(data, key)]:
        raise UserError(f"data.{unused[0]}: a forecast is split by time alone; leave it empty")


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
        check_asked(data)
        self._files = [long.LongFile(file) for file in files]
        names = same_columns(data, {file.name: file.names for file in self._files})
        check_columns(data, names, {"time": data.time}, files[0].name)
        self._series = data.series_id if tell_series and data.series_id in names else ""
        self.channels = tuple(name for name in names if name not in {self._series, data.time, *data.drop})
        if not self.channels:
            raise UserError(f"data.path: {files[0].name} has no column left to be a channel of the series")
        self.forecasts = data.target or self.channels[-1:]
        if unknown := [name for name in self.forecasts if name not in self.channels]:
            raise UserError(
                f"data.target: '{unknown[0]}' is no channel; there are {', '.join(self.channels)}"
            )
        steps = range(1, data.horizon + 1)
        self.learnt = Learnt(
            tuple(f"{name}+{step}" for name in self.forecasts for step in steps), "regression"
        )
        self._check_names()
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

    def _check_names(self) -> None:
        """A series has a name, and lies in one file: windows of its parts would be taken for one another's past."""
        held: dict[str, str] = {}
        for file in self._files if self._series else []:
            codes, names = long.coded(file.load((self._series,))[self._series])
            for code, name in enumerate(names):
                if is_missing(name):
                    raise UserError(f"{file.place(np.argmax(codes == code))}: the row names no series")
                if name in held:
                    raise UserError(
                        f"data.path: the series '{name}' lies in {held[name]} and in {file.name}; "
                        "put all of a series into one file, or give them different names"
                    )
                held[name] = file.name
        if not self._series and len(self._files) > 1:
            raise UserError(
                f"data.series_id: '{self.data.series_id}' is no column, so all rows are one series, and there are "
                f"{len(self._files)} files; name the column that tells series apart, or put all into one file"
            )

    def _whole(self, file: long.LongFile) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The series of a file: name, times (T,), values (T, C), in the order of time."""
        wanted = tuple(name for name in (self._series, self.data.time) if name)
        table = file.load((*wanted, *self.channels), self.channels)
        values = np.stack([table[name].to_numpy() for name in self.channels], axis=1).astype(np.float64)
        count = len(values)
        times = long.times_of(table[self.data.time], file) if self.data.time else np.arange(count)
        codes, names = (
            long.coded(table[self._series]) if self._series else (np.zeros(count, np.int64), ["all"])
        )
        for code, name in enumerate(names):
            rows = np.flatnonzero(codes == code)
            rows = rows[np.argsort(times[rows], kind="stable")]
            try:
                long.check_times(rows, times, file)
            except BadInput as error:
                raise UserError(f"{file.name}: {error}") from None
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
        return strangers(self.data.path, KNOWN)


def own(data: Data) -> SeriesSource:
    """The user's own tables."""
    return ForecastSource(data, files_below(data.path, KNOWN))


class EcgSource(ForecastSource):
    """A minute of the MIT-BIH electrocardiograms, 7,500 steps of one voltage in mV (Moody and Mark, 2001)."""

    def left_out(self) -> list[str]:
        """Nothing."""
        return []


def ecg(data: Data) -> SeriesSource:
    """The recording that the package `sktime` ships (BSD-3); its column of change points is left out."""
    file = folder_of(data.source) / "datasets" / "data" / "mitdb" / "mitdb.csv"
    return EcgSource(data.model_copy(update={"drop": (*data.drop, "label")}), [file], tell_series=False)
