"""The API on TCP: who is let in, what the files must be, and halves of connections that close one by one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from api_certificates import Authority, pem_key
from api_node import FakeNode
from cryptography.hazmat.primitives.asymmetric import ec
from manager_rig import free_address

from manager.api import listening, tls_transport
from manager.api.server import ApiServer
from manager.api.tls import TlsFiles, TlsServer
from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.runtime import Env, SystemClock

ADDRESS = "127.0.0.1"
BIG = 3 << 20


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def files_in(folder: Path) -> TlsFiles:
    return TlsFiles(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")


def server_of(authority: Authority, folder: Path) -> TlsServer:
    return TlsServer(files_in(authority.write(folder, "server", address=ADDRESS)), SystemClock())


def client_of(authority: Authority, folder: Path | None) -> ssl.SSLContext:
    """A client that trusts the authority, with the certificate in the folder, if any."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if folder is not None:
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def ping(address: str, context: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://{address}/_ping", ssl=context) as answer,
    ):
        return answer.status


@asynccontextmanager
async def serving(tls: TlsServer, tmp_path: Path) -> AsyncIterator[str]:
    server, address = ApiServer(FakeNode(), Env()), free_address()
    await server.start(tmp_path / "api.sock", tcp_addresses=(address,), tls=lambda: tls.context)
    try:
        yield address
    finally:
        await server.stop()


async def test_only_clients_with_a_certificate_of_the_authority_are_served(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority("another CA").write(tmp_path / "stranger", "somebody")
    good = client_of(authority, authority.write(tmp_path / "client", "alice"))
    async with serving(server_of(authority, tmp_path / "server"), tmp_path) as address:
        assert await ping(address, good) == 200
        for refused in (client_of(authority, None), client_of(authority, stranger)):
            with pytest.raises(aiohttp.ClientError):
                await ping(address, refused)
        good.minimum_version, good.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
        assert await ping(address, good) == 200
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in await reader.read()
        writer.close()


async def test_files_are_read_again_when_told_to(authority: Authority, tmp_path: Path) -> None:
    tls = server_of(authority, tmp_path / "server")
    alice = client_of(authority, authority.write(tmp_path / "client", "alice"))
    other = Authority("another CA")
    async with serving(tls, tmp_path) as address:
        assert await ping(address, alice) == 200
        (tmp_path / "server" / "ca.pem").write_bytes(other.certificate)
        assert await ping(address, alice) == 200
        tls.reload()
        with pytest.raises(aiohttp.ClientError):
            await ping(address, alice)
        bob = client_of(authority, other.write(tmp_path / "bob", "bob"))
        assert await ping(address, bob) == 200
        (tmp_path / "server" / "cert.pem").write_bytes(b"rubbish")
        tls.reload()
        assert await ping(address, bob) == 200


def expire(files: TlsFiles, authority: Authority) -> None:
    certificate, key = authority.issue("server", days=-1)
    files.cert.write_bytes(certificate)
    files.key.write_bytes(key)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f, a: f.key.unlink(), r"key\.pem cannot be read: No such file"),
        (lambda f, a: f.cert.write_bytes(b"x"), "the API's certificate is no PEM certificate"),
        (lambda f, a: f.ca.write_bytes(b""), "the API's CA certificate is no PEM certificate"),
        (lambda f, a: f.key.write_bytes(b"x"), "the API's key is no PEM private key"),
        (lambda f, a: f.key.write_bytes(a.issue("x")[1]), "key does not belong to its certificate"),
        (
            lambda f, a: f.key.write_bytes(pem_key(ec.generate_private_key(ec.SECP256R1()), b"secret")),
            "protected by a passphrase",
        ),
        (
            lambda f, a: [
                p.write_bytes(t) for p, t in zip((f.cert, f.key), a.issue("x", days=-1), strict=True)
            ],
            "the API's certificate has expired at",
        ),
    ],
)
def test_files_that_cannot_work_are_named(
    authority: Authority, tmp_path: Path, spoil: Callable[[TlsFiles, Authority], object], text: str
) -> None:
    files = files_in(authority.write(tmp_path, "server", address=ADDRESS))
    spoil(files, authority)
    with pytest.raises(FailedPrecondition, match=text):
        TlsServer(files, SystemClock())


async def test_without_files_the_network_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="would be open to the network without a password"):
        await ApiServer(FakeNode(), Env()).start(tmp_path / "api.sock", tcp_addresses=("0.0.0.0:0",))


async def test_the_socket_is_given_to_a_group(tmp_path: Path) -> None:
    listener = await listening.listen_unix(asyncio.Protocol, tmp_path / "a.sock", group="12345")
    assert (tmp_path / "a.sock").stat().st_gid == 12345
    assert (tmp_path / "a.sock").stat().st_mode & 0o777 == 0o660
    listener.close()
    listener = await listening.listen_unix(asyncio.Protocol, tmp_path / "a.sock", group="root")
    assert (tmp_path / "a.sock").stat().st_gid == 0
    listener.close()
    with pytest.raises(FailedPrecondition, match="There is no group nobody-has-this"):
        await listening.listen_unix(asyncio.Protocol, tmp_path / "a.sock", group="nobody-has-this")


class Counting(asyncio.Protocol):
    """Says how much it was sent once that has ended, with much behind it."""

    def __init__(self) -> None:
        self.got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += len(data)

    def eof_received(self) -> bool:
        self.transport.write(b"%d\n" % self.got + b"x" * BIG)
        self.transport.write_eof()
        return True


class TlsClient:
    """One that closes its half in TLS, as Go's does and Python's does not."""

    def __init__(
        self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=ADDRESS)
        self._reader, self._writer = reader, writer

    async def _do(self, step: Callable[[], bytes | None]) -> bytes | None:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                await self._send()
                data = await self._reader.read(1 << 16)
                self._in.write(data) if data else self._in.write_eof()
            else:
                await self._send()
                return done

    async def _send(self) -> None:
        if self._out.pending:
            self._writer.write(self._out.read())
            await self._writer.drain()

    async def talk(self, data: bytes) -> bytes:
        """Shake hands, send, close that half, and read all there is."""
        await self._do(self._tls.do_handshake)
        for start in range(0, len(data), 1 << 16):
            self._tls.write(data[start : start + (1 << 16)])
            await self._send()
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self._send()
        found = b""
        while True:
            try:
                part = await self._do(lambda: self._tls.read(1 << 16))
            except ssl.SSLZeroReturnError:
                return found
            if not part:
                return found
            found += part


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_who_has_closed_a_half_gets_all_of_its_answer(
    authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    tls = server_of(authority, tmp_path / "server")
    host, port = free_address().split(":")
    server = await listening.listen_tcp(tls_transport.serve(Counting, lambda: tls.context), host, int(port))
    context = client_of(authority, authority.write(tmp_path / "client", "alice"))
    context.minimum_version = context.maximum_version = version
    reader, writer = await asyncio.open_connection(host, port)
    async with asyncio.timeout(20):
        answer = await TlsClient(context, reader, writer).talk(b"y" * BIG)
    assert answer == b"%d\n" % BIG + b"x" * BIG
    writer.close()
    server.close()


async def test_clients_that_only_connect_are_few(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "API_HANDSHAKES_MAX", 3)
    tls = server_of(authority, tmp_path / "server")
    async with serving(tls, tmp_path) as address:
        idle = [await asyncio.open_connection(*address.split(":")) for _ in range(3)]
        reader, _ = await asyncio.open_connection(*address.split(":"))
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        good = client_of(authority, authority.write(tmp_path / "client", "alice"))
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await ping(address, good) == 200
                except aiohttp.ClientError:
                    continue
                break


async def test_a_crowd_of_handshakes_leaves_the_loop_to_others(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two steps of handshakes, everybody else has had a turn."""
    tls = server_of(authority, tmp_path / "server")
    client = client_of(authority, authority.write(tmp_path / "client", "alice"))
    turns, steps, in_a_row = 0, 0, []
    shake_hands = tls_transport._Wire.shake_hands

    def counted(wire: tls_transport._Wire) -> None:
        nonlocal steps
        steps += 1
        in_a_row.append(turns)
        shake_hands(wire)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(tls_transport._Wire, "shake_hands", counted)
    other = asyncio.create_task(turn())
    async with serving(tls, tmp_path) as address, asyncio.timeout(20):
        assert await asyncio.gather(*(ping(address, client) for _ in range(10))) == [200] * 10
    other.cancel()
    assert steps == 20
    assert len(set(in_a_row)) == steps
