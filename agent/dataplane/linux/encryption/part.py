"""``Encryption``: the Part that keeps IPsec in order for encrypted networks.

It comes before the overlays, so that the base policies stand before any device that could send. A node that
cannot encrypt refuses the task, in a sentence. States are left in place over a restart of the daemon: they
count nonces and hold replay windows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from agent.dataplane.base import Endpoint, NodeState, Peer
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.encryption import esp
from agent.dataplane.linux.encryption.epoch import Epoch
from agent.dataplane.linux.encryption.keys import KEY_BYTES, SALT_BYTES, Sender
from agent.dataplane.linux.encryption.xfrm import State, Xfrm, add_state, set_policy
from agent.dataplane.linux.part import Space
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import TaskId

log = structlog.get_logger(__name__)

ESP: Final = "esp"
_LEDGER_NAME: Final = "encryption.json"
_PROBE_SPI: Final = 0x5A5A5A5A


class Encryption:
    """See ``Part``. ``ways`` are those that ``probe`` found; ``epoch`` goes to the managers with them."""

    def __init__(self, run_dir: Path) -> None:
        self._epoch = Epoch(run_dir / _LEDGER_NAME)
        self._xfrm: Xfrm | None = None
        self._state = NodeState()
        self._is_settled = False
        self.ways: tuple[str, ...] = ()
        self.lacking = ""

    @property
    def epoch(self) -> str:
        return self._epoch.name

    def start_up(self, node: Space) -> None:
        self.lacking = find_lacking()
        self.ways = () if self.lacking else (ESP,)
        if self.ways:
            self._epoch.load()
            self._xfrm = Xfrm()

    def apply(self, state: NodeState) -> None:
        former, self._state = self._state, state
        is_same = (
            self._is_settled
            and state.keys is former.keys
            and state.peers is former.peers
            and state.data_path_port == former.data_path_port
            and _has_encrypted(state) == _has_encrypted(former)
        )
        if not is_same and _has_encrypted(state):
            self._is_settled = False
            self._settle()
            self._is_settled = True

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        networks = [leg.network.name for leg in endpoint.legs if leg.network.is_encrypted]
        if not networks:
            return
        if self._xfrm is None:
            raise TaskRejected(
                f'network "{networks[0]}" is encrypted, and this node cannot encrypt: {self.lacking}'
            )
        if not self._is_settled:
            self._settle()
            self._is_settled = True

    def detach(self, task_id: TaskId) -> None:
        pass

    def shut_down(self) -> None:
        if self._xfrm is not None:
            self._xfrm.close()
            self._xfrm = None
        self._is_settled = False

    def destroy(self) -> None:
        """States and policies go, the base policies first of all last: no device of ours is left then."""
        if self._xfrm is not None:
            port = self._port()
            empty = esp.Plan("", (), (), frozenset())
            work = esp.diff(empty, self._xfrm.states(), self._xfrm.policies(), port=port)
            self._xfrm.do(*work.messages)
        self._epoch.remove()
        self._is_settled = False

    # --- settling

    def _settle(self) -> None:
        assert self._xfrm is not None, "there is nothing to settle with"
        port = self._port()
        try:
            states, policies = self._xfrm.states(), self._xfrm.policies()
            plan = self._plan(port)
            work = esp.diff(plan, states, policies, port=port)
            if self._epoch.was_used(work.sending):
                # the kernel has lost a state that was sent with: never again with its key
                log.warning("encryption_epoch_ended", epoch=self._epoch.name)
                self._epoch.end()
                plan = self._plan(port)
                work = esp.diff(plan, states, policies, port=port)
            self._epoch.use(work.sending)
            self._xfrm.do(*work.messages)
        except OSError as error:
            raise Unavailable(f"cannot set up the encryption of networks: {error}") from None

    def _plan(self, port: int) -> esp.Plan:
        own = self._state.peers.get(self._state.node_id)
        if own is None:
            return esp.Plan("", (), esp.base_policies(port), frozenset())
        others = [
            _node(peer, peer.boot_id)
            for peer in self._state.peers.values()
            if peer.node_id != own.node_id and ESP in peer.encryption
        ]
        return esp.make_plan(_node(own, self._epoch.name), others, self._state.keys, port=port)

    def _port(self) -> int:
        return secure_port(self._state.data_path_port)


def secure_port(data_path_port: int) -> int:
    """The data port of encrypted networks: the next one."""
    return data_path_port + 1


def find_lacking() -> str:
    """What this node lacks for IPsec, in a sentence; empty if nothing. Tried in a scratch namespace."""
    if os.geteuid() != 0:
        return "the daemon must run as root to set up IPsec"
    key = bytes(KEY_BYTES + SALT_BYTES)
    try:
        with namespaces.scratch(), Xfrm() as xfrm:
            xfrm.do(*(set_policy(policy) for policy in esp.base_policies(4790)))
            xfrm.do(add_state(State("192.0.2.1", "192.0.2.2", _PROBE_SPI, 1, key)))
    except OSError as error:
        return (
            f"the kernel has no ESP with AES-GCM ({error.strerror}); "
            "load the modules esp4, esp6, xfrm_user and gcm"
        )
    return ""


def _node(peer: Peer, epoch: str) -> esp.Node:
    return esp.Node(Sender(peer.node_id, peer.number, epoch), peer.addr)


def _has_encrypted(state: NodeState) -> bool:
    return any(network.config.is_encrypted for network in state.networks.values())
