"""Health checks: of ``healthcheck``, and of ``readiness`` under ``x-swarmpy``."""

from __future__ import annotations

from swarmpy.compose.fields import Fields
from swarmpy.compose.tree import Scalar
from swarmpy.model.ids import Duration
from swarmpy.model.specs import Healthcheck


def healthcheck(service: Fields, key: str = "healthcheck") -> Healthcheck | None:
    fields = service.fields(key)
    if fields is None:
        return None
    test = fields.texts("test")
    if isinstance(fields.node.get("test"), Scalar):
        test = ("CMD-SHELL", *test)
    if fields.flag("disable"):
        if test:
            raise fields.error("disable", "cannot be set together with test")
        return Healthcheck(test=("NONE",))
    return Healthcheck(
        test=test,
        interval=fields.duration("interval") or Duration(0),
        timeout=fields.duration("timeout") or Duration(0),
        start_period=fields.duration("start_period") or Duration(0),
        start_interval=fields.duration("start_interval") or Duration(0),
        retries=fields.whole("retries") or 0,
    )
