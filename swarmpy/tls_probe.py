"""What a server shows before it is trusted: raw TLS connections that carry no call.

For joining only (ADR 001): the chain that a manager presents, and whether it turns a certificate away.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from swarmpy import limits
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.pki import Identity, Role


async def fetch_chain(address: str) -> bytes:
    """The certificates (PEM, leaf first) that the server at ``address`` presents. Nothing is verified."""
    context = _tls_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with _connect(address, context) as (_, writer):
        return _presented_chain(writer.get_extra_info("ssl_object"))


async def is_turned_away(identity: Identity, address: str) -> bool:
    """Whether the server completes a handshake with ``identity`` only to hang up at once.

    gRPC says no more than that the connection was closed. In TLS 1.3 a server judges the client's
    certificate after the client's side is through, and ours ends the connection without an alert; one
    that accepts us greets with HTTP/2 settings. So the first byte, or its absence, is the answer.
    """
    context = _tls_context()
    context.load_verify_locations(cadata=identity.roots.decode("ascii"))
    with tempfile.TemporaryDirectory(prefix="swarmpy-join-") as folder:
        # The ssl module takes keys from files only. The folder is ours alone, and lives for this line.
        pair = Path(folder, "pair.pem")
        pair.write_bytes(identity.key + identity.certificate)
        context.load_cert_chain(pair)
    async with _connect(address, context) as (reader, _):
        try:
            async with asyncio.timeout(limits.JOIN_PROBE_TIMEOUT_S):
                return await reader.read(1) == b""
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            return True


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InvalidArgument(f"{address[:256]!r} is not the address of a manager: give HOST:PORT")
    return host, int(port)


def _tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


@asynccontextmanager
async def _connect(
    address: str, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = split_address(address)
    try:
        async with asyncio.timeout(limits.JOIN_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=Role.MANAGER.value
            )
    except TimeoutError:
        raise Unavailable(f"no answer from {address}: check the address, and that port is open") from None
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"what answers at {address} is not a manager of the swarm ({error.reason or error})"
        ) from error
    except OSError as error:
        # asyncio puts words of its own into the error; a name that does not resolve has negative numbers
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or type(error).__name__
        raise Unavailable(f"no manager can be reached at {address}: {reason}") from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _presented_chain(tls: ssl.SSLObject) -> bytes:
    """All certificates that the peer sent, as PEM.

    Public since Python 3.13. In 3.11 and 3.12, which take only security fixes now, the same method is one
    attribute away. The other ways are worse: reading the handshake's bytes needs TLS 1.2 and a parser of
    our own, and gRPC does not connect to whom it cannot verify.
    """
    if sys.version_info >= (3, 13):
        chain: list[bytes] = tls.get_unverified_chain()
    else:
        import _ssl

        inner = tls._sslobj  # type: ignore[attr-defined]
        chain = [one.public_bytes(_ssl.ENCODING_DER) for one in inner.get_unverified_chain()]
    return "".join(ssl.DER_cert_to_PEM_cert(one) for one in chain).encode("ascii")
