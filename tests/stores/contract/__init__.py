"""The contract suite: every sentence of :mod:`kimiflow.stores.base`, as tests that any store can run.

Whoever publishes a store subclasses :class:`StoreContract` in a test module and gives it two fixtures: ``store``, an
opened and empty store, and ``peer``, a second store object on the same data (or the same one again).
"""

from .claims import ClaimContract
from .commits import CommitContract, SharedTokenContract
from .late import LateContract
from .moving import MovingContract
from .reading import ReadingContract
from .record import RecordContract
from .sign_ins import SignInContract
from .upkeep import UpkeepContract
from .workers import WorkerContract

__all__ = ["StoreContract"]


class StoreContract(
    ClaimContract,
    CommitContract,
    SharedTokenContract,
    LateContract,
    MovingContract,
    ReadingContract,
    RecordContract,
    SignInContract,
    UpkeepContract,
    WorkerContract,
):
    """All of it."""
