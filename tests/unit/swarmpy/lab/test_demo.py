"""The few decisions of the demo: where a task is reached."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.errors import Unavailable
from swarmpy.lab.demo import service_spec, task_address


@pytest.mark.parametrize(
    "task",
    [
        {"ID": "t", "Status": {"Addresses": ["172.20.0.5/16"]}},
        {"ID": "t", "Status": {}, "NetworksAttachments": [{"Addresses": ["172.20.0.5"]}]},
        {
            "ID": "t",
            "Status": {},
            "NetworksAttachments": [{}, {"Addresses": ["172.20.0.5/24", "10.0.0.9/24"]}],
        },
    ],
)
def test_the_first_reported_address_counts(task: dict[str, Any]) -> None:
    assert task_address(task) == "172.20.0.5"


def test_a_task_without_an_address_is_named() -> None:
    with pytest.raises(Unavailable, match="The task t has no address"):
        task_address({"ID": "t", "Status": {}, "NetworksAttachments": None})


def test_the_number_of_replicas_is_in_the_spec() -> None:
    assert service_spec(7)["Mode"] == {"Replicated": {"Replicas": 7}}
