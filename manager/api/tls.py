"""The files behind the API on TCP. Only clients with a certificate of the given authority are served.

Whoever is let in is root on every node, so there is no TLS without clients' certificates here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

from swarmpy.config import NodeConfig
from swarmpy.errors import FailedPrecondition
from swarmpy.pki.server_files import check_server_files
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, its key, and who issues clients' certificates."""

    ca: Path
    cert: Path
    key: Path


class TlsServer:
    """The files as they were read last; ``reload`` reads them again, for the connections that come then."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        self._files, self._clock = files, clock
        self.context = make_context(files, clock)

    @classmethod
    def of(cls, config: NodeConfig, clock: Clock) -> TlsServer | None:
        """None if the API is to be without TLS. FailedPrecondition if it can't be served with these files."""
        if config.api_ca is None or config.api_cert is None or config.api_key is None:
            return None
        return cls(TlsFiles(ca=config.api_ca, cert=config.api_cert, key=config.api_key), clock)

    def reload(self) -> None:
        """What can't be used is said in the log, and the former files stay in force."""
        try:
            self.context = make_context(self._files, self._clock)
        except FailedPrecondition as error:
            log.error("api_tls_files_not_reloaded", reason=str(error))
        else:
            log.info("api_tls_files_reloaded")


def make_context(files: TlsFiles, clock: Clock) -> ssl.SSLContext:
    """A server's context from the files as they are now. FailedPrecondition says which can't be used."""
    texts = [_read(path) for path in (files.cert, files.key, files.ca)]
    check_server_files(*texts, now=clock.now())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # no tickets: who comes back with one is not asked for its certificate, which may have expired
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError) as error:
        raise FailedPrecondition(f"the API's TLS files can't be used together: {error}") from error
    return context


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(
            f"the API's TLS file {path} cannot be read: {error.strerror or error}"
        ) from error
