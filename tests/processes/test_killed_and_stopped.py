"""Workers that vanish, or stand still, in the middle of a request."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from kimiflow.model import State

from .scene import Scene, until

if TYPE_CHECKING:
    from .conftest import Staged


async def granted(scene: Scene, *names: str) -> None:
    for name in names:
        scene.sandbox.set_policy(await scene.device(name), "auto")
    await scene.until_state(State.GRANTED, *names)


async def test_a_worker_killed_between_claim_and_commit(staged: Staged, database_url: str) -> None:
    """What the server had not looked at yet is done by the next worker; what it had is named in the history."""
    async with staged(database_url, token_lifetime=600.0) as scene:
        sandbox = scene.sandbox
        await scene.begin("refresh", "refresh-spent", "poll", "poll-spent", "first")
        devices = {
            name: await scene.device(name) for name in ("refresh", "refresh-spent", "poll", "poll-spent", "first")
        }
        sandbox.inject("delay/60:device", device_id=devices["first"])
        worker = scene.worker()
        await granted(scene, "refresh", "refresh-spent")
        await scene.until_state(State.PENDING, "poll", "poll-spent")
        for name in ("refresh", "poll"):
            sandbox.inject("delay/60:token=x1", device_id=devices[name])
        for name in ("refresh-spent", "poll-spent"):
            sandbox.inject("late/60:token=x1", device_id=devices[name])
        for name in ("poll", "poll-spent"):
            sandbox.approve_device(devices[name])
        await scene.refresh_now("refresh", "refresh-spent")
        await until(lambda: scene.at_the_server == 4, "all four are in the server's hands")
        scene.kill(worker)
        sandbox.clear_faults()
        await until(lambda: scene.at_the_server == 0, "the server notices that the worker has gone")

        scene.worker()
        sandbox.set_policy(devices["first"], "auto")
        await scene.until_state(State.GRANTED, "refresh", "poll", "first")
        ended = await scene.until_state(State.EXPIRED, "refresh-spent", "poll-spent")
        for snapshot in ended.values():
            assert snapshot.resting is not None
            assert snapshot.resting.error == "invalid_grant"
            assert "stopped" in (snapshot.resting.error_description or "") or "no reply" in (
                snapshot.resting.error_description or ""
            )
        assert "interrupted" in str(await scene.history("refresh"))
        verdict = await scene.verdict()
        assert sorted(verdict.kept) == ["first", "poll", "refresh"]
        assert sorted(verdict.excused) == ["poll-spent", "refresh-spent"]


async def test_a_worker_stopped_past_its_lease(staged: Staged, database_url: str) -> None:
    """What it brings when it goes on is merged where nobody has anything newer, and else changes nothing."""
    async with staged(database_url, token_lifetime=600.0) as scene:
        sandbox = scene.sandbox
        names = ("refresh-issued", "refresh-unheard", "poll-issued", "poll-pending")
        await scene.begin(*names)
        devices = {name: await scene.device(name) for name in names}
        late = scene.worker()
        await granted(scene, "refresh-issued", "refresh-unheard")
        await scene.until_state(State.PENDING, "poll-issued", "poll-pending")
        for name in ("refresh-issued", "poll-issued", "poll-pending"):
            sandbox.inject("delay/2:token=x1", device_id=devices[name])
        sandbox.inject("hang/2:token=x1", device_id=devices["refresh-unheard"])
        await scene.refresh_now("refresh-issued", "refresh-unheard")
        await until(lambda: scene.at_the_server == 4, "all four are in the server's hands")
        late.pause()
        sandbox.approve_device(devices["poll-issued"])
        # The next worker is refused for a while, so that the tokens which wait in the stopped one are the newest.
        sandbox.inject("503:refresh", device_id=devices["refresh-issued"])
        await until(lambda: scene.at_the_server == 0, "the server replies to a worker that does not listen")
        assert len(scene.issued(devices["poll-issued"])) == 1
        assert len(scene.issued(devices["refresh-issued"])) == 2
        sandbox.approve_device(devices["poll-pending"])

        scene.worker()
        await scene.until_state(State.EXPIRED, "poll-issued")  # the code is spent: that is all the second one can know
        await scene.until_state(State.GRANTED, "poll-pending", "refresh-unheard")
        await until(
            lambda: any(e.status == 503 for e in sandbox.log("refresh", devices["refresh-issued"])),
            "the second worker tries",
        )
        before = {name: scene.issued(device)[-1].issued_refresh_token for name, device in devices.items()}
        late.go_on()
        found = await scene.until_state(State.GRANTED, *names)
        assert late.log.count("tokens_merged_late") == 2, late.log
        sandbox.clear_faults()
        after = {name: scene.issued(device)[-1].issued_refresh_token for name, device in devices.items()}
        assert after == before
        assert found["poll-issued"].grant is not None

        # And what was merged is good: both refresh tokens still work.
        await scene.refresh_now(*names)
        await until(
            lambda: all(len(scene.issued(devices[name])) >= (3 if "refresh" in name else 2) for name in names),
            "all are refreshed once more",
        )
        verdict = await scene.verdict(stopped=devices.values())
        assert len(verdict.kept) == 4


async def test_workers_killed_at_random_moments(staged: Staged, database_url: str) -> None:
    """Thirty accounts sign in and are refreshed while three workers are killed one after the other."""
    rng = random.Random(11)
    names = [f"account-{n}" for n in range(30)]
    async with staged(database_url, token_lifetime=3.0) as scene:
        sandbox = scene.sandbox
        sandbox.inject("503:token=0.05")
        sandbox.inject("reset:token=0.03")
        sandbox.inject("delay/0.1:token=0.5")
        workers = [scene.worker(level="info") for _ in range(3)]
        await scene.begin(*names)
        approved: dict[str, str] = {}
        kills = 0
        async with scene.flow() as flow:
            while kills < 4 or len(approved) < len(names):
                for snapshot in await flow._store.snapshots():
                    shown, name = snapshot.on_its_way, snapshot.account.name
                    if shown is None or shown.user_code is None or name in approved or rng.random() < 0.3:
                        continue
                    # What a person sees, once: nobody approves a second code.
                    sandbox.approve(shown.user_code)
                    approved[name] = shown.user_code
                await asyncio.sleep(rng.uniform(0.2, 1.8))
                chosen = rng.randrange(len(workers))
                scene.kill(workers[chosen])
                workers[chosen] = scene.worker(level="info")
                kills += 1
            sandbox.clear_faults()
            # Nobody is killed any more: what survived goes on living, under the code that its person has seen.
            now = sandbox.now()

            def refreshed_since() -> set[str]:
                return {e.device_id for e in sandbox.log("refresh") if e.at > now + 4.0 and e.outcome == "issued"}

            def dead(device_id: str) -> bool:
                return any(
                    e.outcome == "invalid_grant"
                    for e in sandbox.log(device_id=device_id)
                    if e.kind in {"poll", "refresh"}
                )

            devices = {s.account.name: s.account.device_id for s in await flow._store.snapshots()}
            await until(
                lambda: all(d in refreshed_since() or dead(d) for d in devices.values()), "all are refreshed again"
            )
        verdict = await scene.verdict()
        assert len(verdict.kept) + len(verdict.excused) == len(names)
        assert len(verdict.kept) >= len(names) // 2
        final = await scene.snapshots()
        for name in verdict.kept:
            grant = final[name].grant
            assert grant is not None
            assert grant.user_code == approved[name]
