"""How a task's first process gives its privileges away: all at once, but for the one that a filter needs.

A filter of system calls may be set by who can gain no new privileges, or by who holds CAP_SYS_ADMIN. So a
task that may run set-uid programs keeps that capability, alone of what is not its own, over the change of its
account; ``confine`` then sets the filter and drops it, as the last thing before the command.
"""

from __future__ import annotations

import base64
import os

from agent.executor.native.shim import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job
    from agent.executor.native.shim.accounts import Account

_SYS_ADMIN = 21


def drop(job: Job, account: Account) -> None:
    """Bounding set first: it needs privileges that the next steps give away."""
    keep = set(job["capabilities"])
    needs_admin = bool(job.get("seccomp")) and not job.get("no_new_privileges", True)
    kernel.drop_bounding(keep)
    if account.uid and needs_admin:
        kernel.keep_capabilities()
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    kernel.set_capabilities(_own(job, account) | ({_SYS_ADMIN} if needs_admin else set()))
    if job.get("no_new_privileges", True):
        kernel.set_no_new_privileges()
    if job.get("apparmor"):
        _apply_profile(job["apparmor"])


def confine(job: Job, account: Account) -> None:
    program = base64.b64decode(job.get("seccomp", ""))
    if not program:
        return
    kernel.set_filter(program)
    if not job.get("no_new_privileges", True):
        kernel.set_capabilities(_own(job, account))


def _own(job: Job, account: Account) -> set[int]:
    """Only root's process begins with capabilities, as in docker."""
    return set() if account.uid else set(job["capabilities"])


def _apply_profile(name: str) -> None:
    """From the next program on."""
    try:
        with open("/proc/self/attr/exec", "w", encoding="utf-8") as file:
            file.write(f"exec {name}")
    except OSError as error:
        text = f'the AppArmor profile "{name}" cannot be applied: {error.strerror}; is it loaded here?'
        raise OSError(error.errno, text) from None
