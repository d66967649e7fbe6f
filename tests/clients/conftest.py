"""Programs that others wrote against the Engine API, on labs of real daemons.

What a test shows is said by its marker ``works``, from which docs/clients.md is made (see client_table.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import client_table
import pytest
from docker_engine import box_tar
from image_files import write_docker_save

FOLDER = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    client_table.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    client_table.configure(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder drives labs; without root none of it can run."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """busybox as ``box:1`` and ``box:2``, as docker saves it."""
    path = tmp_path_factory.mktemp("image") / "box.tar"
    return write_docker_save(path, [box_tar()], names=["box:1", "box:2"], Cmd=["sleep", "100000"])
