"""What a session's end, an outage or another worker may not do: lose a command, or settle it in another's name."""

import asyncio

import pytest

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_QUEUE
from configcache_worker.app import StartRefused, build_worker
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.waiting import eventually

REFUSE_SEVEN = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON configuration_cache
    FOR EACH ROW WHEN (OLD.associate_id = 7) EXECUTE FUNCTION refuse();
"""


def clear(associate):
    return ClearConfigurationCache.for_associate("WebClient", "Web", associate)


def row(associate):
    return ("WebClient", "Web", associate, "Contact")


async def test_a_batch_of_a_closed_channel_settles_nothing_on_the_next_one(new_system):
    async with new_system(
        worker={"batch": 50}, database={"lock_timeout_s": 60, "statement_timeout_s": 60}
    ) as system:
        await system.fill([row(associate) for associate in range(1, 301)])
        await system.publish(*[clear(associate) for associate in range(1, 101)])
        await system.settled()

        async with locked_row(system, 250):
            async with locked_row(system, 101):
                await system.publish(*[clear(associate) for associate in range(101, 301)])
                await eventually(lambda: system.worker.pipeline.in_flight == 200)
                await someone_waits_for_a_lock(system)
                first = system.worker.sessions.current
                await first._channel.close()
                await eventually(lambda: system.worker.sessions.current is not first)
            await eventually(lambda: system.worker.sessions.current is not None)
            await eventually(lambda: rows_are_gone(system, range(1, 201)))
            await someone_waits_for_a_lock(system)
            await system.kill_worker()
        assert await system.rows(), "there must be something left that could have been lost"

        await system.start_worker()
        await system.settled()

        assert await system.rows() == set()
        assert await system.dead_letters() == []


async def rows_are_gone(system, associates):
    return not {row(associate) for associate in associates} & await system.rows()


async def test_commands_are_held_while_the_table_is_missing_and_applied_when_it_is_back(system):
    await system.fill([row(1)])
    await system.execute("ALTER TABLE configuration_cache RENAME TO away")

    await system.publish(clear(1))
    await eventually(lambda: "database" in system.worker.pipeline.troubles())
    assert not (await system.worker.readiness()).ready
    await system.execute("ALTER TABLE away RENAME TO configuration_cache")
    await system.settled()

    assert await system.rows() == set()
    assert (await system.worker.readiness()).ready


async def test_a_commit_that_fails_is_not_taken_for_success(system):
    await system.fill([row(1)])
    await system.execute(
        """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER DELETE ON configuration_cache
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION full_disk();
        """
    )

    await system.publish(clear(1))
    await eventually(lambda: "database" in system.worker.pipeline.troubles())
    assert system.worker.pipeline.in_flight == 1
    await system.execute("DROP TRIGGER at_commit ON configuration_cache")
    await system.settled()

    assert await system.rows() == set()


async def test_only_the_command_a_trigger_refuses_is_dead_lettered(system):
    await system.fill([row(associate) for associate in range(1, 500)])
    await system.execute(REFUSE_SEVEN)

    await system.publish(*[clear(associate) for associate in range(1, 400)])
    await eventually(lambda: system.worker.pipeline.in_flight == 1)
    for associate in range(400, 500):
        await system.publish(clear(associate))
        if system.worker.pipeline.totals.buried:
            break
        await eventually(lambda: system.worker.pipeline.in_flight <= 1)
    await system.settled()

    (letter,) = await system.dead_letters()
    assert letter.reason == "refused-by-database"
    assert b'"AssociateId":7' in letter.body
    assert {associate for _, _, associate, _ in await system.rows() if associate < 400} == {7}


async def test_what_was_settled_just_before_a_stop_is_not_handed_out_again(system):
    await system.fill([row(associate) for associate in range(1, 2001)])
    # A delivery that stays open below all others, so that these are acknowledged singly.
    await system.execute(REFUSE_SEVEN.replace("one'", "one' USING ERRCODE = 'XX001'"))
    await system.publish(*[clear(associate) for associate in (7, *range(8, 2001))])
    await eventually(lambda: system.worker.pipeline.totals.cleared)

    await system.stop_worker()

    left = {associate for _, _, associate, _ in await system.rows()} & {7, *range(8, 2001)}
    await eventually(lambda: queue_holds(system, len(left)))


async def queue_holds(system, count):
    return await system.bench.depth(COMMAND_QUEUE) == count


async def test_a_row_that_somebody_holds_keeps_no_other_command_waiting(new_system):
    async with new_system(database={"lock_timeout_s": 0.1}) as system:
        await system.fill([row(associate) for associate in range(1, 101)])

        async with locked_row(system, 7):
            await system.publish(*[clear(associate) for associate in range(1, 101)])
            await eventually(lambda: rows_are_gone(system, {*range(1, 101)} - {7}))
            assert (await system.worker.readiness()).ready
            assert await system.rows() == {row(7)}
        await system.settled()

        assert await system.rows() == set()
        assert await system.dead_letters() == []


async def test_workers_with_overlapping_clears_never_deadlock(new_system, postgres):
    seconds = 5.0
    async with new_system() as system:
        others = [build_worker(system.settings) for _ in range(3)]
        running = [asyncio.create_task(other.run()) for other in others]
        log_before = len(postgres.log())
        end = asyncio.get_running_loop().time() + seconds
        rows = [(application, "Web", a, i) for application in "AB" for a in range(1, 41) for i in "xyz"]

        async def refill():
            while asyncio.get_running_loop().time() < end:
                await system.fill(rows)

        async def publish():
            while asyncio.get_running_loop().time() < end:
                await system.publish(
                    *[
                        ClearConfigurationCache.for_associate(app, "Web", n)
                        for n in range(40, 0, -1)
                        for app in "BA"
                    ],
                    ClearConfigurationCache.for_all("B", "Web"),
                    ClearConfigurationCache.for_all("A", "Web"),
                )

        await asyncio.gather(refill(), publish())
        await system.publish(*[ClearConfigurationCache.for_all(app, "Web") for app in "AB"])
        await eventually(lambda: rows_are_gone_all(system))
        for other in others:
            other.stop()
        await asyncio.gather(*running)
        await system.settled()

        assert "deadlock detected" not in postgres.log()[log_before:]
        assert sum(other.pipeline.totals.cleared > 0 for other in others) == 3
        assert await system.dead_letters() == []


async def rows_are_gone_all(system):
    return not await system.rows()


async def test_a_topology_with_other_arguments_refuses_the_start_in_the_brokers_words(new_system):
    async with new_system(start_worker=False) as system:
        async with system.bench._open().channel() as channel:
            underlay = await channel.get_underlay_channel()
            await underlay.queue_delete(COMMAND_QUEUE)
            await underlay.queue_declare(COMMAND_QUEUE, durable=True, arguments={"x-queue-type": "classic"})

        with pytest.raises(StartRefused, match="inequivalent arg"):
            await build_worker(system.settings).run()


async def test_a_table_that_cannot_serve_refuses_the_start_with_what_mends_it(new_system):
    table_sql = "CREATE TABLE mine (application text NOT NULL, instance text NOT NULL, associate_id bigint, item text)"

    with pytest.raises(StartRefused, match="SET NOT NULL"):
        async with new_system(table_sql=table_sql, cache={"table": "mine"}):
            pass


async def test_a_worker_without_the_right_to_declare_waits_for_the_topology(new_system):
    async with new_system(start_worker=False, broker={"declare": False}) as system:
        async with system.bench._open().channel() as channel:
            underlay = await channel.get_underlay_channel()
            await underlay.queue_delete(COMMAND_QUEUE)
        worker = build_worker(system.settings)
        running = asyncio.create_task(worker.run())
        consuming = asyncio.create_task(worker.sessions.session())

        await eventually(lambda: worker_is_waiting(worker))
        assert not consuming.done()
        await system.bench.declare()
        await asyncio.wait_for(consuming, 10)

        worker.stop()
        await running


async def worker_is_waiting(worker):
    readiness = await worker.readiness()
    return "broker" in readiness.reasons
