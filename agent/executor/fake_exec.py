"""Commands inside pretended tasks: what they answer is scripted, and takes virtual time.

``Reply`` says what a command does; ``FakeChannel`` is the conversation with it. The end of its task ends a
command too, as the end of a container does.
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import AsyncIterator
from dataclasses import dataclass

from agent.executor.base import Command, Output
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId

KILLED = 128 + signals.SIGKILL
FAKE_PID = 4242


@dataclass(frozen=True, kw_only=True)
class Reply:
    """``takes_s`` None: it never ends by itself. ``is_echo``: it gives back its input, and ends with it.
    ``refusal``: there is no such command."""

    exit_code: int = 0
    output: tuple[Output, ...] = ()
    takes_s: float | None = 0.0
    is_echo: bool = False
    refusal: str = ""


def works(task_id: TaskId, command: Command) -> Reply:
    """The script in which every command ends well at once and prints nothing."""
    return Reply()


class FakeChannel:
    """One command under way. ``end`` is for the machine: the command's task has ended."""

    def __init__(self, reply: Reply, *, is_detached: bool = False) -> None:
        self._reply = reply
        self._is_detached = is_detached
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._printed: asyncio.Queue[Output | None] = asyncio.Queue()
        self.size = (0, 0)
        for part in reply.output:
            self._printed.put_nowait(part)
        if reply.takes_s is not None and not reply.is_echo:
            asyncio.get_running_loop().call_later(reply.takes_s, self.end, reply.exit_code)

    @property
    def pid(self) -> int:
        return FAKE_PID

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def end(self, code: int = KILLED) -> None:
        if not self._ended.done():
            self._ended.set_result(code)
            self._printed.put_nowait(None)

    async def output(self) -> AsyncIterator[Output]:
        while (part := await self._printed.get()) is not None:
            yield part

    async def write(self, data: bytes) -> None:
        if self._reply.is_echo and not self._ended.done():
            self._printed.put_nowait(Output(1, data))

    async def close_input(self) -> None:
        if self._reply.is_echo:
            self.end(self._reply.exit_code)

    async def resize(self, *, rows: int, columns: int) -> None:
        self.size = (rows, columns)

    async def exit_code(self) -> int:
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        if not self._is_detached:
            self.end()


class FakeAttached(FakeChannel):
    """Attached to a task: what it logs comes out here, and what is written to a task that takes input is told
    back. Letting go of it ends nothing."""

    def __init__(self, *, is_fed: bool) -> None:
        super().__init__(Reply(takes_s=None))
        self._is_fed = is_fed
        self._is_let_go = False
        self.is_input_closed = False

    def tell(self, part: Output) -> None:
        if not self.has_ended:
            self._printed.put_nowait(part)

    async def write(self, data: bytes) -> None:
        if self._is_fed:
            self.tell(Output(1, data))

    async def close_input(self) -> None:
        """Noted only: what a task makes of the end of its input is its own affair."""
        self.is_input_closed = True

    async def exit_code(self) -> int:
        if self._is_let_go:
            raise Unavailable("the task was let go of")
        return await super().exit_code()

    async def close(self) -> None:
        self._is_let_go = self._is_let_go or not self.has_ended
        self.end()
