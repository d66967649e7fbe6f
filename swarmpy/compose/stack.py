"""What reading Compose documents gives: a stack of services, and what the user should know of it."""

from __future__ import annotations

from collections.abc import Mapping as Mappings
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from swarmpy.compose.tree import Place
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.specs import Driver, ServiceSpec

NAMESPACE_LABEL = "com.docker.stack.namespace"
IMAGE_LABEL = "com.docker.stack.image"
PREDEFINED_NETWORKS = frozenset({"bridge", "host", "none"})


@dataclass(frozen=True, slots=True)
class Document:
    """One Compose file, as the caller read it. ``folder`` is absolute: relative paths start there."""

    file: str
    text: str
    folder: str = "/"


class Files(Protocol):
    """The files that documents name, by absolute path; a dict is one."""

    def get(self, path: str, /) -> str | None:
        """The text, or None if there is no such file. Raises ``InvalidArgument`` if it cannot be read."""


@dataclass(frozen=True, slots=True)
class StackWarning:
    """Something that was asked for and does not happen."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class NamedSpec:
    """A service by its name in the file; the spec's own name has the stack's in front. ``places`` says where
    each of the service's keys stands."""

    name: str
    spec: ServiceSpec
    place: Place
    places: Mappings[str, Place] = field(default_factory=dict)

    def at(self, key: str) -> Place:
        return self.places.get(key, self.place)


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """``spec.name`` is the network's name in the cluster. An external one must exist already."""

    name: str
    spec: NetworkSpec
    is_external: bool
    place: Place

    @property
    def is_predefined(self) -> bool:
        """Every node has it by itself."""
        return self.is_external and self.spec.name in PREDEFINED_NETWORKS

    def request(self) -> dict[str, Any]:
        """The body of ``POST /networks/create`` that makes it."""
        spec, driver = self.spec, self.spec.driver_configuration or Driver()
        body: dict[str, Any] = {
            "Name": spec.name,
            "Driver": driver.name,
            "Scope": spec.scope,
            "EnableIPv6": spec.ipv6_enabled,
            "Internal": spec.internal,
            "Attachable": spec.attachable,
            "Options": driver.options,
            "Labels": spec.labels,
        }
        if spec.ipam_options is not None:
            ipam = spec.ipam_options
            body["IPAM"] = {
                "Driver": ipam.driver.name,
                "Options": ipam.driver.options,
                "Config": [msgspec.to_builtins(config) for config in ipam.configs],
            }
        return body


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A secret or a config. Its data is in a file (``path``, absolute), is written out (``content``), is in
    an environment variable, comes from a driver, or is in the cluster already (external)."""

    name: str
    full_name: str
    labels: Mappings[str, str]
    is_external: bool
    place: Place
    path: str = ""
    content: str = ""
    variable: str = ""
    driver: str = ""
    driver_options: Mappings[str, str] = field(default_factory=dict)
    template_driver: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything in the order of its names."""

    name: str
    services: tuple[NamedSpec, ...] = ()
    networks: tuple[NamedNetwork, ...] = ()
    secrets: tuple[NamedFile, ...] = ()
    configs: tuple[NamedFile, ...] = ()
    warnings: tuple[StackWarning, ...] = ()
