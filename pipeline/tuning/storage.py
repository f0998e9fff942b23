"""Where Optuna keeps studies: a file of this machine, or a database of many, which may be away for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import TrialState

from pipeline.core import patience, sqlite
from pipeline.core.params import UserError
from pipeline.core.patience import first_line, patiently, shown

KEY = "tracking.studies (or FAIRLEAD_STUDIES)"
TIMEOUT = 30  # seconds until a connection that says nothing is taken for lost


class Lasting(RDBStorage):
    """A database over a network: every call is made again while it does not answer."""

    def __init__(self, address: str, **engine: Any) -> None:
        self.what = f"the database of the studies, {shown(address)},"
        self.within = threading.local()  # one call makes others
        super().__init__(address, engine_kwargs={"pool_pre_ping": True, **engine})

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As the base's; that the end of a trial was stored just before the connection broke is no error."""
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            if self.get_trial(trial_id).state != state:
                raise
            return True


def lasting(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a storage, made patient."""

    @wraps(method)
    def call(self: Lasting, *given: Any, **named: Any) -> Any:
        if getattr(self.within, "held", False):
            return method(self, *given, **named)
        self.within.held = True
        try:
            return patiently(lambda: method(self, *given, **named), self.what)
        finally:
            self.within.held = False

    return call


# What is asked of a storage, and what Optuna's cache in front of it asks.
CALLED = {
    *BaseStorage.__abstractmethods__,
    *("get_best_trial", "_get_best_trial_id", "_get_trials", "_create_new_trial", "_set_trial_param"),
}
for name in sorted(CALLED):
    setattr(Lasting, name, lasting(getattr(Lasting, name)))


def opened(address: str) -> BaseStorage:
    """The storage at an address.

    Raises:
        UserError: it is no address, its driver is not installed, or the database does not answer or refuses.
    """
    from sqlalchemy.exc import SQLAlchemyError

    sqlite.check_file(address, KEY)
    waits = address.startswith("sqlite:") or "+pg8000:" in address
    engine: dict[str, Any] = {"connect_args": {"timeout": TIMEOUT}} if waits else {}
    what = f"the database of the studies, {shown(address)},"
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # a broken connection's traceback
    try:
        if address.startswith("sqlite:"):
            return get_storage(RDBStorage(address, engine_kwargs=engine))
        return patiently(lambda: get_storage(Lasting(address, **engine)), what, patience.OPENING)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs the package '{error.name}': pip install 'fairlead[postgres]' for postgresql+pg8000://"
        ) from None
    except ImportError as error:  # Optuna's, which names no package
        raise UserError(f"{what} needs a package that is not installed: {reason(error)}") from None
    except RuntimeError:  # of the table of versions, which MLflow's database has too
        raise UserError(
            f"{KEY}: {shown(address)} holds tables of another program, or of another version of Optuna; name a "
            "database of its own, such as sqlite:///.fairlead/studies.db"
        ) from None
    except (SQLAlchemyError, StorageInternalError, ValueError) as error:
        raise UserError(
            f"tracking.studies: {what} cannot be opened: {reason(error)}; expected sqlite:///FILE or "
            "postgresql+pg8000://USER:PASSWORD@HOST/DATABASE"
        ) from None


def reason(error: Exception) -> str:
    """Why a database refuses, as its driver says it."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return first_line(getattr(cause, "orig", None) or error)
