"""``swarmpy unlock`` and ``swarmpy unlock-key``: the key that managers need after a restart."""

from __future__ import annotations

import getpass
import sys

from swarmpy.cli.flags import Command, Options, switch
from swarmpy.cli.session import Session, fail, is_stale, version_of
from swarmpy.client import ErrorAnswer, Json
from swarmpy.limits import STALE_RETRIES_MAX

_KEY_CHARS_MAX = 1_000


def told(session: Session) -> str:
    """What to tell the user of the key, as docker tells it."""
    return (
        "To unlock a swarm manager after it restarts, run the `swarmpy unlock`\n"
        f"command and provide the following key:\n\n    {_key(session)}\n\n"
        "Remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager."
    )


def is_on(swarm: Json) -> bool:
    return bool((swarm["Spec"].get("EncryptionConfig") or {}).get("AutoLockManagers"))


def unlock_key(session: Session, arguments: list[str], options: Options) -> int:
    if options.on("rotate"):
        if not _rotate(session):
            fail("cannot rotate because autolock is not turned on")
            return 1
        if not options.on("quiet"):
            print("Successfully rotated manager unlock key.\n")
    key = _key(session)
    if not key:
        fail("no unlock key is set")
        return 1
    print(key if options.on("quiet") else told(session))
    return 0


def _rotate(session: Session) -> bool:
    attempt = 0
    while True:
        swarm: Json = session.client.get("/swarm")
        if not is_on(swarm):
            return False
        query = {"rotateManagerUnlockKey": True, "version": version_of(swarm)}
        try:
            session.client.post("/swarm/update", swarm["Spec"], query)
        except ErrorAnswer as error:
            attempt += 1
            if not is_stale(error) or attempt == STALE_RETRIES_MAX:
                raise
        else:
            return True


def unlock(session: Session, arguments: list[str], options: Options) -> int:
    state = session.client.get("/info")["Swarm"]["LocalNodeState"]
    if state == "inactive":
        fail("This node is not part of a swarm")
        return 1
    if state != "locked":
        fail("swarm is not locked")
        return 1
    if sys.stdin.isatty():
        key = getpass.getpass("Please enter unlock key: ")
    else:
        key = sys.stdin.readline(_KEY_CHARS_MAX)
    session.client.post("/swarm/unlock", {"UnlockKey": key.strip()})
    return 0


def _key(session: Session) -> str:
    key: str = session.client.get("/swarm/unlockkey")["UnlockKey"]
    return key


COMMANDS = {
    "unlock": Command(unlock, "Unlock a manager that has started again, with the key on its standard input"),
    "unlock-key": Command(
        unlock_key,
        "Show or change the key that managers are unlocked with",
        flags=(
            switch("rotate", "Rotate unlock key"),
            switch("quiet", "Only display token", short="q"),
        ),
    ),
}
