"""The real ``Transport``: gRPC over TCP with mutual TLS 1.2 or better.

A peer that vanishes is noticed within two seconds, by HTTP/2 pings that gRPC's own threads send. A port's
credentials are asked for before every handshake, so new ones hold from the next connection on. Decides
nothing about who may call what (``rpc``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import cast

import grpc
import grpc.aio

from swarmpy import limits, tls_probe
from swarmpy.pki import Identity, Role
from swarmpy.runtime import PortCredentials


class GrpcTransport:
    """``Transport`` for production; it holds nothing."""

    def channel(
        self, identity: Identity, address: str, *, server_role: Role = Role.MANAGER
    ) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(identity.roots, identity.key, identity.certificate)
        options = [*_options(is_server=False), ("grpc.ssl_target_name_override", server_role.value)]
        return grpc.aio.secure_channel(address, credentials, options=options)

    def port(
        self, interceptor: grpc.aio.ServerInterceptor, credentials: Callable[[], PortCredentials]
    ) -> GrpcPort:
        return GrpcPort(interceptor, credentials)

    async def fetch_chain(self, address: str) -> bytes:
        return await tls_probe.fetch_chain(address)

    async def is_turned_away(self, identity: Identity, address: str) -> bool:
        return await tls_probe.is_turned_away(identity, address)


class GrpcPort:
    """``Port`` on a TCP socket."""

    def __init__(
        self, interceptor: grpc.aio.ServerInterceptor, credentials: Callable[[], PortCredentials]
    ) -> None:
        self._credentials = credentials
        self._served: PortCredentials | None = None
        self.grpc: grpc.aio.Server = grpc.aio.server(
            interceptors=[interceptor],
            options=_options(is_server=True),
            maximum_concurrent_rpcs=limits.RPC_CONCURRENT_MAX,
        )

    async def listen(self, address: str) -> int:
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(self._credentials()),
            cast("Callable[[], grpc.ServerCertificateConfiguration]", self._fetch_configuration),
            require_client_authentication=True,
        )
        try:
            port = self.grpc.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(_bind_error(address) or str(error)) from error
        await self.grpc.start()
        return port

    async def stop(self, grace_s: float) -> None:
        await self.grpc.stop(grace_s)

    def _fetch_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks before every handshake, from its own thread; None means "as before".
        credentials = self._credentials()
        if credentials is self._served:
            return None
        self._served = credentials
        return _configuration(credentials)


def _configuration(credentials: PortCredentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(credentials.key, credentials.chain)], credentials.bundle
    )


def _options(*, is_server: bool) -> list[tuple[str, int | str]]:
    def milliseconds(seconds: float) -> int:
        return int(seconds * 1000)

    both: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", limits.RPC_MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", limits.RPC_MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", milliseconds(limits.KEEPALIVE_PERIOD_S)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.KEEPALIVE_TIMEOUT_S)),
        # The keepalive timeout alone only bounds what the kernel sees: a stopped process, whose kernel
        # still acknowledges, would pass for alive until this one ends (its default is a minute).
        ("grpc.http2.ping_timeout_ms", milliseconds(limits.KEEPALIVE_TIMEOUT_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if is_server:
        return [
            *both,
            ("grpc.http2.min_ping_interval_without_data_ms", milliseconds(limits.RPC_PING_INTERVAL_MIN_S)),
            (
                "grpc.http2.min_recv_ping_interval_without_data_ms",
                milliseconds(limits.RPC_PING_INTERVAL_MIN_S),
            ),
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.max_concurrent_streams", limits.RPC_STREAMS_PER_PEER_MAX),
            ("grpc.server_handshake_timeout_ms", milliseconds(limits.RPC_HANDSHAKE_TIMEOUT_S)),
            # Without this a second daemon on the same port would silently take half of the connections.
            ("grpc.so_reuseport", 0),
        ]
    return [
        *both,
        ("grpc.initial_reconnect_backoff_ms", milliseconds(limits.RPC_RECONNECT_MIN_S)),
        # Despite its name this also bounds one attempt to connect (its default is 20 s).
        ("grpc.min_reconnect_backoff_ms", milliseconds(limits.RPC_CONNECT_TIMEOUT_S)),
        ("grpc.max_reconnect_backoff_ms", milliseconds(limits.RPC_RECONNECT_MAX_S)),
        # Our traffic never takes the proxy that the environment names for others.
        ("grpc.enable_http_proxy", 0),
        # Every channel has its own connection: bulk on one does not hold up another.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]


def _bind_error(address: str) -> str:
    """The system's reason for refusing the address, which gRPC keeps to itself."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, int(port)))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError:
        return "the port is not a number"
    return ""
