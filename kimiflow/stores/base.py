"""What a store promises, and the theory of leases.

Leases
------

Many workers, in one process or on many machines, drive the authorizations of one store. A worker *claims* a row before
it acts on it and *commits* what came of it. A claim is a lease: it names its owner, it ends by itself at
``claimable_at``, and it carries a **generation**, a number that goes up by one with every claim. Nobody renews a lease,
so there is nothing to forget: it is made long enough for the whole request.

Three rules keep a refresh token in one pair of hands:

1. A worker sends a request only while enough of its lease is left for the request's time-out, measured on
   its own monotonic clock from *before* the claim was asked for. The worker's idea of the lease therefore ends no later
   than the store's.
2. A commit is written only where owner *and* generation still match. An owner alone is no fence: a worker that was
   stopped past its lease may own the row again, with another generation.
3. A refresh is committed as ``refreshing`` before its request leaves. A claim says whether the lease before it ran
   out (``interrupted``): then that worker's request is in doubt, and the history says so.

What is left is a machine that stops for longer than its lease in the middle of a request. Its late commit
meets a newer generation. If it carries tokens it is *merged* where the row still has the same
``token_version``, which means that nobody has newer ones: tokens that arrived are never dropped. The
merge raises the generation too, so that whoever held the row in between cannot overwrite it.

``token_version`` compares secrets without opening them: it goes up whenever device code or tokens are replaced.

Times
-----

Every ``now`` is a parameter, in Unix seconds, by the time that :meth:`Store.now` tells. A store reads no clock of its
own unless its docstring says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, Authorization, Sealed, State, Transition

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kimiflow.model import Account, AccountTransition

__all__ = [
    "HANDED_OVER",
    "REPLACED",
    "SHARED",
    "SIGNED_OUT",
    "Amendment",
    "Beginning",
    "Claim",
    "Holding",
    "Lease",
    "Outcome",
    "Snapshot",
    "Step",
    "Store",
    "StoreFactory",
    "WorkerReport",
]

REPLACED: Final = "replaced"
"""The history's word for an authorization that a newer grant of its account deleted."""

HANDED_OVER: Final = "handed_over"
"""The history's word for an authorization that was deleted because its refresh token belongs to another tool now."""

SHARED: Final = "shared_refresh_token"
"""The error of a grant that came with the refresh token of another account, and is kept without it."""

SIGNED_OUT: Final = "signed_out"
"""The history's word for an authorization that a sign-out deleted."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on one authorization, as it stood when it was taken."""

    account: Account
    authorization: Authorization[Sealed]
    owner: str
    generation: int
    interrupted: bool
    """The lease before this one ran out: its owner vanished, or was too slow."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a claim: the next state of the row, and the history that led there.

    ``keep_lease`` leaves the row claimed (a refresh is committed as ``refreshing`` by the worker that goes on with it),
    until the lease's end or the next attempt, whichever is later. A row that rests is never left claimed.
    A step without history and with an unchanged authorization gives the claim back. One that ``ends`` deletes the row:
    its grant was handed over, and nobody here may refresh it again.
    """

    claim: Claim
    authorization: Authorization[Sealed]
    history: tuple[Transition, ...] = ()
    keep_lease: bool = False
    ends: bool = False

    @property
    def brings_tokens(self) -> bool:
        """Whether this step carries tokens that the claim did not."""
        return (
            self.authorization.state is State.GRANTED
            and self.authorization.token_version > self.claim.authorization.token_version
        )

    @property
    def replaces(self) -> bool:
        """Whether this step turns a sign-in into a grant, beside which the account keeps no other authorization.

        A refresh does not: the person may be in the middle of signing in again beside the grant that it renews.
        """
        return self.brings_tokens and self.claim.authorization.state in ON_ITS_WAY


class Outcome(Enum):
    """What became of a step."""

    COMMITTED = "committed"
    MERGED = "merged"
    """The lease was lost, but the tokens were still newer than the row's, and are in it now."""
    SHARED = "shared"
    """Written, but for the refresh token: a grant of another account holds the very same one, and goes on using it."""
    LOST = "lost"
    """Another worker holds or has advanced the row; nothing was written."""
    GONE = "gone"
    """The row was deleted, by a sign-out or by a newer grant; nothing was written."""

    @property
    def is_written(self) -> bool:
        """Whether the step is in the store."""
        return self not in {Outcome.LOST, Outcome.GONE}


@dataclass(frozen=True, slots=True)
class Beginning:
    """A sign-in that a person asked for, or a grant that was made elsewhere (its authorization holds tokens already).

    ``renews`` is the ``updated_at`` of the resting authorization with the same id that it restarts, or ``None`` for a
    new row.
    ``beside_grant`` allows it while the account still holds tokens.
    """

    authorization: Authorization[Sealed]
    history: Transition
    renews: float | None = None
    beside_grant: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a row, and until when by the store's clock."""

    owner: str
    until: float


@dataclass(frozen=True, slots=True)
class Holding:
    """A lease on one authorization; it may be over, and is then its owner's failure to come back."""

    authorization_id: str
    owner: str
    generation: int
    until: float


@dataclass(frozen=True, slots=True)
class Amendment:
    """A row put right beside its life: the same secrets in other seals, or an end that no server told of.

    ``history`` is ``None`` where nothing but seals changes.
    """

    before: Authorization[Sealed]
    after: Authorization[Sealed]
    history: Transition | None = None


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself now and then. Times are the store's, in Unix seconds."""

    name: str
    """The ``owner`` in its leases."""
    host: str
    since: float
    in_flight: int
    """Claims that it is working on."""
    seen_at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One account with its authorizations, as they stood at one moment."""

    account: Account
    authorizations: tuple[Authorization[Sealed], ...]
    leases: tuple[Lease | None, ...] = ()
    """One for each authorization, in the same order."""

    @property
    def on_its_way(self) -> Authorization[Sealed] | None:
        """The sign-in that has not settled, where there is one."""
        return next((a for a in self.authorizations if a.state in ON_ITS_WAY), None)

    @property
    def grant(self) -> Authorization[Sealed] | None:
        """The one that holds tokens, where there is one."""
        return next((a for a in self.authorizations if a.state in HOLDS_TOKENS), None)

    @property
    def resting(self) -> Authorization[Sealed] | None:
        """The latest one that settled without a grant, where there is one."""
        settled = [a for a in self.authorizations if a.state not in HOLDS_TOKENS | ON_ITS_WAY]
        return max(settled, key=lambda a: a.updated_at, default=None)

    @property
    def shown(self) -> Authorization[Sealed] | None:
        """The one that matters most to a person now: on its way, else with tokens, else the last that settled."""
        return self.on_its_way or self.grant or self.resting

    def lease_of(self, authorization: Authorization[Sealed]) -> Lease | None:
        """Who holds that authorization, where anybody does."""
        held = zip(self.authorizations, self.leases, strict=False)
        return next((lease for a, lease in held if a.id == authorization.id), None)

    def find(self, authorization_id: str | None) -> Authorization[Sealed] | None:
        """That authorization, or :attr:`shown` where it is gone."""
        return next((a for a in self.authorizations if a.id == authorization_id), None) or self.shown


class Store(Protocol):
    """Where accounts, authorizations and history live.

    Every method that writes does so in one transaction, durable when it returns. Methods take batches; the cost of a
    transaction is shared by all that is in one.

    :raises StoreUnavailable: from any method, where the database cannot be reached or is locked for too long.
        Nothing was written, or it was written and the answer was lost; every method may be called again with the
        same arguments.
    """

    async def open(self) -> None:
        """Connects, and brings the schema up to date.

        :raises SchemaMismatch: where the schema is newer than this program.
        """

    async def close(self) -> None:
        """Lets go of every connection. Claims stay until they end by themselves."""

    async def now(self, local: float) -> float:
        """The time by which leases and due times are judged, in Unix seconds.

        ``local`` is the caller's wall time, which a store may give back that only one process uses. A store that many
        share has a time of its own that nobody can turn, so that hosts whose clocks differ still agree on what is due
        and on whose lease is over.
        """

    async def add_accounts(self, accounts: Sequence[Account]) -> list[Account]:
        """Inserts those whose names are new. Returns the stored account for each name, in order.

        An account that exists is left as it is: provider and device id are for life.
        """

    async def set_proxy(self, account_id: str, proxy: str | None) -> None:
        """Replaces the proxy of an account."""

    async def set_disabled(self, account_ids: Collection[str], disabled: bool) -> None:  # noqa: FBT001 - it is the value
        """Says whether these accounts are not to be handed out. What drives them does not care."""

    async def set_label(self, account_ids: Collection[str], label: str | None) -> None:
        """Replaces the label of these accounts."""

    async def rename(self, account_id: str, name: str) -> bool:
        """Gives an account another name; ``False`` where there is no such account, or another one has that name."""

    async def begin(self, beginnings: Sequence[Beginning]) -> list[bool]:
        """Starts sign-ins, each with its row of history. Returns for each whether it was begun.

        One is not begun where the account already has an authorization on its way; where it holds tokens and
        ``beside_grant`` is false, or what begins is a grant itself; where there is an authorization of that id that
        it does not renew; where ``renews`` is given and the row is not resting any more or has moved on
        since; or where the account is gone.
        """

    async def claim_due(
        self,
        owner: str,
        now: float,
        ttl: float,
        limit: int,
        *,
        only: Collection[str] | None = None,
        providers: Collection[str] | None = None,
        skip_providers: Collection[str] = (),
    ) -> list[Claim]:
        """Takes up to ``limit`` rows whose next step is due, the longest due first.

        A row is taken if, and only if, all of these hold:

        - it has a ``next_attempt_at``, and ``next_attempt_at <= now``;
        - it has no lease, or its lease is over (``claimable_at <= now``);
        - ``only`` is ``None``, or holds its account's id;
        - ``providers`` is ``None`` or holds its account's provider, and ``skip_providers`` does not, or its
          device code's deadline is over, which needs no server to be told.

        Each row taken has this ``owner``, a lease until ``now + ttl`` and a generation one higher than before, durably,
        when this returns. No row is ever given to two callers for overlapping leases.
        """

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """Writes each step whose claim still stands, with its history, and ends its lease unless ``keep_lease``.

        - Owner and generation match: written, ``COMMITTED``. Whether the lease has run out in the meantime does not
          matter while nobody else has claimed the row.
        - They do not match, the step brings tokens, and the row's ``token_version`` is still the claim's: the tokens
          are written, the lease is ended, the generation goes up: ``MERGED``.
        - The row exists, but neither holds: ``LOST``.
        - There is no such row: ``GONE``.

        A step whose refresh token a grant of another account holds is written without it, as
        :func:`~kimiflow.stores.fence.disowned` has it: ``SHARED`` for ``COMMITTED`` and ``MERGED``. Of two
        such steps of one call the first has it. Two calls at the same moment may miss each other.

        A step that is written and :attr:`~Step.replaces` deletes every other authorization of the account in the
        same commit, with a row of history each (``replaced``) after the step's own.

        Steps are taken in order, as if each were alone; one's loss does not touch the others. A step that an earlier
        call wrote already, whose answer was lost, gets the same outcome again and leaves no second row of history.
        """

    async def hasten(self, tokens_seen: Sequence[tuple[str, int]], now: float) -> None:
        """Makes first requests and refreshes due at ``now``, for (authorization id, token version) pairs.

        Only for rows that are requested or hold tokens, are not due anyway, and still have that token version, so that
        many callers who saw the same token cause one refresh. Whatever ``not_before`` says: a person may ask for it, and
        who is none looks at that before.
        """

    async def next_due(
        self,
        *,
        only: Collection[str] | None = None,
        providers: Collection[str] | None = None,
        skip_providers: Collection[str] = (),
    ) -> float | None:
        """When :meth:`claim_due` with the same filters will next have something to take; ``None`` for never."""

    async def snapshots(self, names: Collection[str] | None = None) -> list[Snapshot]:
        """The accounts of these names that exist, or all, each with its authorizations; sorted by name.

        Authorizations are in the order in which they were created.
        """

    async def count_on_their_way(self, *, only: Collection[str] | None = None) -> int:
        """How many sign-ins have not settled (requested, pending, slow_down)."""

    async def history(self, account_id: str) -> list[Transition]:
        """Every transition of an account, oldest first, in the order in which they were committed."""

    async def last_cursor(self) -> int:
        """A cursor before every transition that is committed from now on, and after those that were; 0 for none.

        Where transitions are just being committed, some of them may come after it.
        """

    async def transitions_after(self, cursor: int, limit: int) -> list[AccountTransition]:
        """Up to ``limit`` transitions of all accounts after ``cursor``, in the order of their cursors.

        - Cursors go up, and none is ever used twice, whatever was pruned or forgotten meanwhile.
        - Once a transition was returned, none with a smaller cursor is returned to anybody later. So a database that
          numbers rows before they are committed holds back those that another, still being written, may precede.
        - Transitions of one account are in the order in which they were committed.
        - What is committed is returned soon, without another commit being needed for it.

        What was pruned, and accounts that were forgotten, are missing.
        """

    async def sign_out(
        self, account_ids: Collection[str], now: float, *, forget: bool = False
    ) -> list[Authorization[Sealed]]:
        """Deletes the authorizations of these accounts; returns them, by id, as they were when they went.

        What is returned is in no other commit: a refresh that lands later brings nothing back.

        The account stays, with its device id and its history, which gets a row for each deleted authorization
        (``signed_out``).
        With ``forget`` the account and its history go as well.
        """

    async def prune_history(self, before: float) -> int:
        """Deletes the history that is older than ``before``; returns how many rows.

        In several short transactions, so that nobody waits for it; one that is cut short is simply called again.
        """

    async def report_worker(self, report: WorkerReport) -> None:
        """Notes what a worker says of itself, in the place of what it said before."""

    async def workers(self) -> list[WorkerReport]:
        """The last report of every worker that was not forgotten, sorted by name."""

    async def forget_worker(self, name: str) -> None:
        """Removes a worker's report; its leases stay until they end by themselves."""

    async def any_sealed(self) -> Sealed | None:
        """Some sealed secret, to tell which key the store was written with; ``None`` where there is none."""

    async def sealed_with(self) -> dict[str, int]:
        """How many sealed secrets there are, by what stands before their first dot, cut after eight characters."""

    async def sealed_otherwise(self, key_id: str, limit: int, after: str = "") -> list[Authorization[Sealed]]:
        """Up to ``limit`` authorizations that hold a secret which does not begin with ``key_id`` and a dot.

        In the order of their ids, from the first one after the id ``after``.
        """

    async def holdings(self) -> list[Holding]:
        """Every lease, those included that are over and were not taken by anybody since."""

    async def amend(self, amendments: Sequence[Amendment], now: float) -> list[bool]:
        """Writes each ``after`` where the row is exactly ``before`` and nobody holds it; returns which were written.

        Nobody holds it where there is no lease, or where it is over by ``now``. Where there is history, the lease is
        ended and the generation goes up, so that its late owner does not write over what was decided; otherwise both
        stay as they are, and the next claim still tells of the owner who did not come back.
        """

    def stamp(self) -> object | None:
        """Equal to an earlier answer only if nobody, in any process, has committed anything in between.

        Costs microseconds and waits for nothing; ``None`` where that cannot be told without waiting.
        """

    async def changed(self, timeout: float) -> bool:
        """Waits until somebody may have committed something, for up to ``timeout`` seconds.

        Returns whether something may have changed since the last call of this method on this store object. It may say
        so too often (the first call may return at once), never too rarely by more than its docstring says. All who
        wait at the time are woken; who looks at the store in turns with somebody else on the same object bounds its
        ``timeout``, because the other's call takes the news away.
        """


class StoreFactory(Protocol):
    """How a store is made: the object that a ``kimiflow.stores`` entry point names.

    It is called with the database URL, and the scheme of the URL is the name of the entry point.
    """

    def __call__(self, url: str) -> Store: ...
