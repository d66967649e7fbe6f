"""``SimTransport``: the seam ``Transport`` on a simulated network, for one life of one daemon.

Authorisation, statuses and bytes are the real ones: the port runs the interceptor that it is given, and
messages are serialized and parsed by the generated code. Handshakes are judged by ``handshake``, calls
carried by ``grpc_call`` and ``grpc_server``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import grpc.aio

from swarmpy import tls_probe
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.limits import JOIN_PROBE_TIMEOUT_S
from swarmpy.model.ids import Timestamp
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Clock, PortCredentials
from swarmpy.sim.connection import CLOSED, Connection, End
from swarmpy.sim.grpc_channel import SimChannel
from swarmpy.sim.grpc_server import Opening, SimServer
from swarmpy.sim.handshake import show
from swarmpy.sim.network import LOCAL_NAMES, SimNetwork
from swarmpy.sim.process import Process

if TYPE_CHECKING:
    from swarmpy.sim.grpc_call import SimCall


class SimTransport:
    """Made by ``SimNetwork.transport``."""

    def __init__(self, network: SimNetwork, process: Process, *, host: str, clock: Clock) -> None:
        self._network = network
        self._process = process
        self._host = host
        self._clock = clock

    def channel(
        self, identity: Identity, address: str, *, server_role: Role = Role.MANAGER
    ) -> grpc.aio.Channel:
        channel = SimChannel(
            self._network,
            lambda: self._connect(address),
            identity=identity,
            address=address,
            server_role=server_role,
            now=self._clock.now,
        )
        return cast("grpc.aio.Channel", channel)

    def port(
        self, interceptor: grpc.aio.ServerInterceptor, credentials: Callable[[], PortCredentials]
    ) -> SimPort:
        return SimPort(
            self._network,
            self._process,
            host=self._host,
            server=SimServer(
                [interceptor],
                generator=self._network.generator,
                on_unexpected=self._network.note_unexpected,
            ),
            credentials=credentials,
            now=self._clock.now,
        )

    async def fetch_chain(self, address: str) -> bytes:
        probe = self._probe(address, b"")
        try:
            return await probe.chain(address)
        finally:
            probe.close()

    async def is_turned_away(self, identity: Identity, address: str) -> bool:
        verdicts = self._network.verdicts
        probe = self._probe(address, verdicts.leaf(identity.certificate))
        try:
            chain = await probe.chain(address)
            is_manager = verdicts.role_of(verdicts.leaf(chain)) is Role.MANAGER
            if not is_manager or not verdicts.is_server_trusted(chain, identity.roots, self._clock.now()):
                raise InvalidArgument(
                    f"what answers at {address} is not a manager of the swarm (CERTIFICATE_VERIFY_FAILED)"
                )
            return await probe.is_hung_up()
        finally:
            probe.close()

    def _connect(self, address: str) -> End:
        return self._network.connect(self._process, self._host, address).client

    def _probe(self, address: str, leaf: bytes) -> Probe:
        tls_probe.split_address(address)
        return Probe(self._connect(address), leaf)


class Probe:
    """A connection that carries a handshake only."""

    def __init__(self, end: End, leaf: bytes) -> None:
        self._end = end
        self._chain: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._is_welcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        end.owner = self
        end.certificate = leaf

    async def chain(self, address: str) -> bytes:
        try:
            async with asyncio.timeout(JOIN_PROBE_TIMEOUT_S):
                return await self._chain
        except TimeoutError:
            raise Unavailable(f"no answer from {address}: check the address, and that port is open") from None
        except ConnectionError as error:
            raise Unavailable(f"no manager can be reached at {address}: {error}") from error

    async def is_hung_up(self) -> bool:
        """Show our certificate, and see what the server makes of it."""
        show(self._end, self._end.certificate)
        try:
            async with asyncio.timeout(JOIN_PROBE_TIMEOUT_S):
                return not await self._is_welcome
        except TimeoutError:
            return False

    def close(self) -> None:
        self._end.lose(CLOSED)

    # --- Owner

    def shown(self, end: End, pem: bytes) -> None:
        if not self._chain.done():
            self._chain.set_result(pem)

    def ready(self, end: End) -> None:
        if not self._is_welcome.done():
            self._is_welcome.set_result(True)

    def open(self, end: End, call: SimCall | None, opening: Opening) -> None:
        """Servers call nobody."""

    def going_away(self, end: End) -> None:
        """There are no calls."""

    def end_lost(self, end: End, reason: str) -> None:
        if not self._chain.done():
            self._chain.set_exception(ConnectionError(reason))
            self._chain.exception()  # seen, should nobody wait any more
        if not self._is_welcome.done():
            self._is_welcome.set_result(False)


class SimPort:
    """``Port`` of one process, and the owner of its connections."""

    def __init__(
        self,
        network: SimNetwork,
        process: Process,
        *,
        host: str,
        server: SimServer,
        credentials: Callable[[], PortCredentials],
        now: Callable[[], Timestamp],
    ) -> None:
        self._network = network
        self._host = host
        self._server = server
        self._credentials = credentials
        self._now = now
        self._port: int | None = None
        self._ends: dict[End, None] = {}
        self.process = process
        self.grpc = cast("grpc.aio.Server", server)

    # --- Port

    async def listen(self, address: str) -> int:
        name, _, text = address.rpartition(":")
        if not text.isdecimal():
            raise OSError("the port is not a number")
        if name.strip("[]") not in LOCAL_NAMES | {self._host}:
            raise OSError("cannot assign requested address")
        host = self._network.host(self._host)
        port = int(text) or host.free_port()
        if host.listener(port) is not None:
            raise OSError("address already in use")
        self._network.open_port(host, port, self)
        self._port = port
        return port

    async def stop(self, grace_s: float) -> None:
        host = self._network.host(self._host)
        if self._port is not None and host.listeners.get(self._port) is self:
            self._network.close_port(host, self._port)
        for end in list(self._ends):
            if end.peer is not None:
                end.out.send(_go_away, end.peer)
        await self._server.stop(grace_s)
        for end in list(self._ends):
            end.lose(CLOSED)

    # --- Listener and Owner

    def accept(self, connection: Connection) -> None:
        end = connection.server
        if end is None or end.is_broken:
            return
        end.owner = self
        self._ends[end] = None
        if self._server.is_stopping:
            end.lose(CLOSED)
        else:
            show(end, self._credentials().chain)

    def shown(self, end: End, pem: bytes) -> None:
        peer = end.peer
        if peer is None:
            return
        bundle = self._credentials().bundle
        if self._network.verdicts.is_client_welcome(pem, bundle, self._now()):
            end.out.send(_be_ready, peer)
        else:
            self._network.stats["handshakes_refused"] += 1
            end.lose(CLOSED)

    def ready(self, end: End) -> None:
        """Clients say it, by showing their certificate."""

    def open(self, end: End, call: SimCall | None, opening: Opening) -> None:
        self._server.open(end, call, opening)

    def going_away(self, end: End) -> None:
        """Clients hang up instead."""

    def end_lost(self, end: End, reason: str) -> None:
        self._ends.pop(end, None)


def _be_ready(end: End) -> None:
    if end.owner is not None and not end.is_broken:
        end.owner.ready(end)


def _go_away(end: End) -> None:
    if end.owner is not None and not end.is_broken:
        end.owner.going_away(end)
