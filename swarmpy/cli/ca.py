"""``swarmpy ca``: show the root that nodes trust, or change it and watch the nodes follow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmpy.cli import values
from swarmpy.cli.flags import Command, Options, UsageError, listed, switch, text
from swarmpy.cli.session import Session, is_stale, tell, version_of
from swarmpy.client import ErrorAnswer, Json
from swarmpy.limits import PROGRESS_PERIOD_S, STALE_RETRIES_MAX

_PEM = "-----BEGIN "
_ROTATING = ("cert-expiry", "ca-cert", "ca-key", "external-ca")


@dataclass(frozen=True)
class Turned:
    """How far the nodes are. Those that are down are not waited for."""

    certificates: int
    roots: int
    total: int
    down: tuple[str, ...]
    is_over: bool

    @property
    def line(self) -> str:
        text = (
            f"rotated certificates: {self.certificates} out of {self.total} nodes, "
            f"rotated roots: {self.roots} out of {self.total} nodes"
        )
        return text + (f" (down: {', '.join(self.down)})" if self.down else "")


def ca(session: Session, arguments: list[str], options: Options) -> int:
    if not options.on("rotate"):
        for name in _ROTATING:
            if options.is_set(name):
                raise UsageError(f"`--{name}` flag requires the `--rotate` flag to update the CA")
        _show(session)
        return 0
    change = _change(options)
    _rotate(session, change)
    if options.on("detach"):
        return 0
    try:
        _wait(session, is_quiet=options.on("quiet"))
    except KeyboardInterrupt:
        tell("Operation continuing in background.\nUse `swarmpy info` to check progress.")
        return 0
    if not options.on("quiet"):
        _show(session)
    return 0


def turned(cluster: Json, nodes: list[Json]) -> Turned:
    """What is left to do, by what the nodes say of themselves."""
    wanted: Json = cluster.get("TLSInfo") or {}
    up = [node for node in nodes if node["Status"]["State"] != "down"]
    told: list[Json] = [(node.get("Description") or {}).get("TLSInfo") or {} for node in up]

    def count(*names: str) -> int:
        return sum(all(info.get(name) == wanted.get(name) for name in names) for info in told)

    certificates = count("CertIssuerSubject", "CertIssuerPublicKey")
    is_rotating = bool(cluster.get("RootRotationInProgress"))
    # until the end nodes trust both roots
    roots = 0 if is_rotating else count("TrustRoot")
    return Turned(
        certificates=certificates,
        roots=roots,
        total=len(up),
        down=tuple(sorted(node["Description"]["Hostname"] for node in nodes if node not in up)),
        is_over=not is_rotating and certificates == roots == len(up),
    )


def _show(session: Session) -> None:
    print(session.client.get("/swarm")["TLSInfo"]["TrustRoot"].rstrip("\n"))


def _change(options: Options) -> Json:
    """What to set in the CA's settings."""
    change: Json = {}
    if options.is_set("cert-expiry"):
        change["NodeCertExpiry"] = values.duration_ns(options.text("cert-expiry"))
    if options.is_set("ca-key") and not options.is_set("ca-cert"):
        raise UsageError("--ca-key is of no use alone: give the root's certificate, too, with --ca-cert")
    if options.is_set("ca-cert"):
        change["SigningCACert"] = _read(options, "ca-cert")
    if options.is_set("ca-key"):  # the root in force is asked for without it: nobody has its key
        change["SigningCAKey"] = _read(options, "ca-key")
    if options.is_set("external-ca"):
        change["ExternalCAs"] = [_external(entry) for entry in options.many("external-ca")]
    return change


def _read(options: Options, name: str) -> str:
    path = options.text(name)
    try:
        content = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'invalid argument "{path}" for "--{name}" flag: {error}') from error
    if _PEM not in content:
        raise UsageError(
            f'invalid argument "{path}" for "--{name}" flag: file contents must be in PEM format'
        )
    return content


def _external(entry: str) -> Json:
    """The daemon says why there are none."""
    fields = dict(part.partition("=")[::2] for part in entry.split(","))
    return {"Protocol": fields.get("protocol", ""), "URL": fields.get("url", "")}


def _rotate(session: Session, change: Json) -> None:
    for attempt in range(STALE_RETRIES_MAX):
        cluster = session.client.get("/swarm")
        config: dict[str, Any] = cluster["Spec"].setdefault("CAConfig", {})
        config.update(change)
        config["ForceRotate"] = config.get("ForceRotate", 0) + 1
        try:
            session.client.post("/swarm/update", cluster["Spec"], {"version": version_of(cluster)})
        except ErrorAnswer as error:
            if not is_stale(error) or attempt + 1 == STALE_RETRIES_MAX:
                raise
        else:
            return


def _wait(session: Session, *, is_quiet: bool) -> None:
    last = ""
    while True:
        found = _look(session)
        if found is not None and not is_quiet and found.line != last:
            last = found.line
            tell(last)
        if found is not None and found.is_over:
            return
        time.sleep(PROGRESS_PERIOD_S)


def _look(session: Session) -> Turned | None:
    """None while no manager answers: a change of leader does not end the wait."""
    try:
        return turned(session.client.get("/swarm"), session.client.get("/nodes"))
    except ErrorAnswer as error:
        if error.status == 503:
            return None
        raise


COMMANDS = {
    "ca": Command(
        ca,
        "Show the root certificate of the swarm, or change it",
        flags=(
            switch("rotate", "Change the root; without a certificate and key a new one is made"),
            text("ca-cert", "File with the certificate (PEM) of the root to change to"),
            text("ca-key", "File with that root's key (PEM)"),
            text("cert-expiry", "Validity period for node certificates"),
            listed("external-ca", "Not supported: managers sign certificates themselves"),
            switch("detach", "Exit at once instead of waiting until the nodes have followed", short="d"),
            switch("quiet", "Show no progress", short="q"),
        ),
    )
}
