"""The log's set-up: levels, formats, and no local variables in tracebacks."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from swarmpy import log
from swarmpy.errors import InvalidArgument


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_json_lines() -> None:
    out = io.StringIO()
    log.configure("info", "json", stream=out)
    logger = structlog.get_logger("x")
    logger.debug("not_said")
    logger.info("task_started", task_id="t1")
    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["task_id"], told["level"]) == ("task_started", "t1", "info")
    assert told["timestamp"].endswith("Z")


@pytest.mark.parametrize("format", log.FORMATS)
def test_tracebacks_keep_secrets(format: str) -> None:
    out = io.StringIO()
    log.configure("info", format, stream=out)
    secret = "hunter" + "2"
    try:
        raise ValueError("it broke")
    except ValueError:
        structlog.get_logger("x").exception("operation_broke")
    assert "it broke" in out.getvalue()
    assert secret not in out.getvalue()


@pytest.mark.parametrize(("level", "format"), [("loud", "text"), ("info", "xml")])
def test_unknown_settings_are_refused(level: str, format: str) -> None:
    with pytest.raises(InvalidArgument, match="use one of"):
        log.configure(level, format)
