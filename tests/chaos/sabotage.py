"""A worker of which one part dies at its third use, run as a program: ``SABOTAGE`` names the part."""

import itertools
import os
import sys

from configcache.connection import Supervisor
from configcache_worker.__main__ import main
from configcache_worker.core.burials import Burials
from configcache_worker.core.clearing import Clearing
from configcache_worker.rabbitmq.dead_letters import RabbitDeadLetters

PARTS = {
    "clear": (Clearing, "_collect"),
    "bury": (Burials, "_settle"),
    "sessions": (Supervisor, "_one_session"),
    "letters": (RabbitDeadLetters, "_note_failure"),
}


def break_at_third_use(owner: type, name: str) -> None:
    """Let the method *name* of *owner* raise what nobody expects."""
    uses = itertools.count(1)
    original = getattr(owner, name)

    def method(*args: object, **kwargs: object) -> object:
        if next(uses) == 3:
            raise ZeroDivisionError("sabotage")
        return original(*args, **kwargs)

    setattr(owner, name, method)


if __name__ == "__main__":
    break_at_third_use(*PARTS[os.environ.pop("SABOTAGE")])
    sys.exit(main())
