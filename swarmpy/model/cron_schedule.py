"""When a cron job is due: a schedule of five fields, in a time zone. Pure but for the time zone database.

The fields are minute, hour, day of month, month and day of week; each is ``*``, a number, a name (``jan``,
``mon``), a range ``a-b``, any of these with a step ``/n``, or a list of such. Sunday is 0 or 7. As in the
crons that people know, a day must match both day fields if one of them begins with ``*``, else either.

When clocks change, what counts is whether the schedule picks hours. One that does is about a time of the
day: what falls into the hour that is left out is due once, when that hour's end is reached, and what comes
twice is due the first time. One for every hour is about intervals: nothing is made up for, and both count.

A *tick* is a time at which a schedule is due. Only the leader asks for ticks, and what it decides is stored,
so it does no harm if managers' databases differ.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, overload
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from swarmpy.errors import InvalidArgument
from swarmpy.limits import (
    CRON_CHANGES_CACHED_MAX,
    CRON_COUNT_DAYS_MAX,
    CRON_SCHEDULES_CACHED_MAX,
    CRON_TEXT_CHARS_MAX,
)
from swarmpy.model.ids import SECOND_NS, Timestamp

NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_NO_NAMES: Final[dict[str, int]] = {}
_RULES: Final = (
    ("minute", 0, 59, _NO_NAMES),
    ("hour", 0, 23, _NO_NAMES),
    ("day of month", 1, 31, _NO_NAMES),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_PART: Final = re.compile(r"(\*|[0-9]{1,4}|[a-z]+)(?:-([0-9]{1,4}|[a-z]+))?(?:/([0-9]{1,4}))?\Z")

_MINUTE_NS: Final = 60 * SECOND_NS
_HOURS: Final = 24
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS_LOOKED_AT: Final = 41
"""In so many years every date falls on every day of the week, also where a century has no leap day."""
_FIRST_DAY: Final = date(1970, 1, 1)
_LAST_DAY: Final = date(9990, 1, 1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """``minutes``: of a day, counted from midnight, in order. ``is_either_day``: one matching day field is
    enough."""

    minutes: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    is_either_day: bool
    is_every_hour: bool
    zone: tzinfo

    # --- asking for ticks

    def after(self, at: Timestamp) -> Timestamp | None:
        """The first tick later than ``at``; None: there is none in this calendar."""
        for day in self.days_from(self._local_day(at) - _DAY):
            later = self._first_after(day, at)
            if later is not None:
                # where clocks go back over midnight, two days interleave
                other = self._first_after(day + _DAY, at) if self.has_day(day + _DAY) else None
                return later if other is None else min(later, other)
        return None

    def until(self, at: Timestamp) -> Timestamp | None:
        """The last tick that is not later than ``at``; None: there is none."""
        for day in self.days_from(self._local_day(at) + _DAY, step=-1):
            earlier = self._last_until(day, at)
            if earlier is not None:
                other = self._last_until(day - _DAY, at) if self.has_day(day - _DAY) else None
                return earlier if other is None else max(earlier, other)
        return None

    def count(self, after: Timestamp, until: Timestamp) -> int:
        """How many ticks there are later than ``after`` and not later than ``until``.

        Of a longer time only the last ``CRON_COUNT_DAYS_MAX`` days are counted.
        """
        after = Timestamp(max(after, until - CRON_COUNT_DAYS_MAX * _HOURS * 60 * _MINUTE_NS))
        if until <= after:
            return 0
        first, last = self._local_day(after) - _DAY, self._local_day(until) + _DAY
        total, odd = 0, set[Timestamp]()
        day = first
        while day <= last:
            if self.has_day(day):
                ticks = self._ticks(day)
                if isinstance(ticks, _Regular):
                    total += bisect_right(ticks, until) - bisect_right(ticks, after)
                else:
                    odd.update(tick for tick in ticks if after < tick <= until)
                    odd -= self._of_neighbours(day, odd)
            day += _DAY
        return total + len(odd)

    def _of_neighbours(self, day: date, ticks: set[Timestamp]) -> set[Timestamp]:
        """What is due at the end of a time that was left out may be a tick of an ordinary day as well."""
        found: set[Timestamp] = set()
        for each in (day - _DAY, day + _DAY):
            if self.has_day(each) and isinstance(others := self._ticks(each), _Regular):
                found.update(tick for tick in ticks if tick in others)
        return found

    # --- days

    def days_from(self, day: date, *, step: int = 1) -> Iterator[date]:
        """The days that match, from ``day`` on, into the future or (step -1) the past."""
        while _FIRST_DAY < day < _LAST_DAY:
            if day.month not in self.months:
                day = _other_month(day, step)
                continue
            if self.has_day(day):
                yield day
            day += step * _DAY

    def has_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        is_day, is_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (is_day or is_weekday) if self.is_either_day else (is_day and is_weekday)

    def _local_day(self, at: Timestamp) -> date:
        return _moment(at).astimezone(self.zone).date()

    def _first_after(self, day: date, at: Timestamp) -> Timestamp | None:
        ticks = self._ticks(day)
        position = bisect_right(ticks, at)
        return ticks[position] if position < len(ticks) else None

    def _last_until(self, day: date, at: Timestamp) -> Timestamp | None:
        ticks = self._ticks(day)
        position = bisect_right(ticks, at)
        return ticks[position - 1] if position else None

    def _ticks(self, day: date) -> Sequence[Timestamp]:
        """The ticks for the times of this local day, in order."""
        midnights = [datetime.combine(each, time()) for each in (day, day + _DAY)]
        offsets = {_offset(self.zone, each, fold) for each in midnights for fold in (0, 1)}
        if len(offsets) == 1:
            return _Regular(self.minutes, _timestamp(midnights[0].replace(tzinfo=UTC) - offsets.pop()))
        return _ticks_of_change(self, midnights[0])

    def instants(self, local: datetime) -> Iterator[Timestamp]:
        """When it is this time there: once, twice or, where clocks go forward, never."""
        before, after = (_offset(self.zone, local, fold) for fold in (0, 1))
        as_utc = local.replace(tzinfo=UTC)
        if before < after:
            if not self.is_every_hour:
                yield _change(self.zone, as_utc - after, as_utc - before)
            return
        yield _timestamp(as_utc - before)
        if before > after and self.is_every_hour:
            yield _timestamp(as_utc - after)


@lru_cache(maxsize=CRON_CHANGES_CACHED_MAX)
def _ticks_of_change(schedule: Schedule, midnight: datetime) -> Sequence[Timestamp]:
    """Of a day on which clocks change. It takes some milliseconds, and is asked for all day long."""
    found: set[Timestamp] = set()
    for minute in schedule.minutes:
        found.update(schedule.instants(midnight + timedelta(minutes=minute)))
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class _Regular(Sequence[Timestamp]):
    """The ticks of a day on which no clock changes: reckoned, not listed."""

    minutes: tuple[int, ...]
    midnight: Timestamp

    def __len__(self) -> int:
        return len(self.minutes)

    @overload
    def __getitem__(self, position: int) -> Timestamp: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Timestamp]: ...
    def __getitem__(self, position: int | slice) -> Timestamp | Sequence[Timestamp]:
        if isinstance(position, slice):
            return [Timestamp(self.midnight + minute * _MINUTE_NS) for minute in self.minutes[position]]
        return Timestamp(self.midnight + self.minutes[position] * _MINUTE_NS)

    def __contains__(self, tick: object) -> bool:
        if not isinstance(tick, int):
            return False
        minute, rest = divmod(tick - self.midnight, _MINUTE_NS)
        position = bisect_left(self.minutes, minute)
        return rest == 0 and position < len(self.minutes) and self.minutes[position] == minute


# --- times


def _moment(at: int) -> datetime:
    return _EPOCH + timedelta(seconds=at // SECOND_NS)


def _timestamp(moment: datetime) -> Timestamp:
    since = moment - _EPOCH
    return Timestamp((since.days * 86_400 + since.seconds) * SECOND_NS)


def _offset(zone: tzinfo, local: datetime, fold: int) -> timedelta:
    """What clocks there are ahead by; where a time comes twice or never, ``fold`` 0 is before the change."""
    found = local.replace(tzinfo=zone, fold=fold).utcoffset()
    assert found is not None, "zones of the database always know their offset"
    return found


def _change(zone: tzinfo, before: datetime, after: datetime) -> Timestamp:
    """The moment between these two (in UTC) at which clocks go forward."""
    old = before.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        is_old = (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == old
        low, high = (middle, high) if is_old else (low, middle)
    return _timestamp(before + timedelta(seconds=high))


def _other_month(day: date, step: int) -> date:
    """The first day of the next month, or the last of the one before."""
    if step < 0:
        return day.replace(day=1) - _DAY
    return (day.replace(day=28) + 4 * _DAY).replace(day=1)


# --- reading schedules


def zone_of(name: str) -> tzinfo:
    """The time zone of this name; "" is UTC."""
    if name in ("", "UTC"):
        return UTC
    if len(name) <= CRON_TEXT_CHARS_MAX:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # said below, in one way for all of them
    raise InvalidArgument(
        f'cron: unknown time zone "{name[:CRON_TEXT_CHARS_MAX]}": give a name of the time zone database, '
        "such as Europe/Berlin, and see that the managers have that database (package tzdata)"
    )


@lru_cache(maxsize=CRON_SCHEDULES_CACHED_MAX)
def parse(text: str, timezone: str = "") -> Schedule:
    """The schedule, or ``InvalidArgument`` with the field that is at fault."""
    zone = zone_of(timezone)
    if len(text) > CRON_TEXT_CHARS_MAX:
        raise InvalidArgument(f"cron: a schedule has at most {CRON_TEXT_CHARS_MAX} characters")
    stripped = text.strip().lower()
    if stripped.startswith("@"):
        if stripped not in NAMED:
            raise InvalidArgument(
                f'cron: unknown schedule "{text}": give five fields, or one of {", ".join(NAMED)}'
            )
        stripped = NAMED[stripped]
    fields = stripped.split()
    if len(fields) != len(_RULES):
        raise InvalidArgument(
            f'cron: the schedule "{text}" has {len(fields)} fields and needs 5: minute, hour, day of month, '
            "month, day of week"
        )
    sets = [
        _field(field, name, (least, most), names)
        for field, (name, least, most, names) in zip(fields, _RULES, strict=True)
    ]
    minutes, hours, days, months, weekdays = sets
    schedule = Schedule(
        minutes=tuple(hour * 60 + minute for hour in sorted(hours) for minute in sorted(minutes)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(weekday % 7 for weekday in weekdays),
        is_either_day=not fields[2].startswith("*") and not fields[4].startswith("*"),
        is_every_hour=len(hours) == _HOURS,
        zone=zone,
    )
    if not _has_any_day(schedule):
        raise InvalidArgument(
            f'cron: the schedule "{text}" never comes: the day of month and the month exclude each other'
        )
    return schedule


def _has_any_day(schedule: Schedule) -> bool:
    return any(
        schedule.has_day(date(year, month, day))
        for month in sorted(schedule.months)
        for year in range(2000, 2000 + _YEARS_LOOKED_AT)
        for day in range(1, calendar.monthrange(year, month)[1] + 1)
    )


def _field(text: str, name: str, bounds: tuple[int, int], names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        found |= _part(part, name, bounds, names)
    return found


def _part(part: str, name: str, bounds: tuple[int, int], names: dict[str, int]) -> set[int]:
    least, most = bounds
    match = _PART.match(part)
    if match is None or (match[1] == "*" and match[2] is not None):
        raise InvalidArgument(
            f'cron: {name}: "{part}" is none of *, a value, a range a-b, or one of these with a step /n'
        )
    step = int(match[3]) if match[3] is not None else 1
    if not step:
        raise InvalidArgument(f'cron: {name}: the step of "{part}" is 0: give 1 or more')
    if match[1] == "*":
        return set(range(least, most + 1, step)) - ({7} if most == 7 else set())
    first = _value(match[1], name, bounds, names)
    last = _value(match[2], name, bounds, names) if match[2] is not None else first
    if match[2] is None and match[3] is not None:
        raise InvalidArgument(f'cron: {name}: a step needs a range: write "{match[1]}-{most}/{step}"')
    if last < first:
        raise InvalidArgument(f'cron: {name}: "{part}" ends before it begins: give a list of two ranges')
    return set(range(first, last + 1, step))


def _value(text: str, name: str, bounds: tuple[int, int], names: dict[str, int]) -> int:
    least, most = bounds
    if text in names:
        return names[text]
    if not text.isdigit():
        known = f", or one of {', '.join(names)}" if names else ""
        raise InvalidArgument(f'cron: {name}: "{text}" is no number from {least} to {most}{known}')
    if not least <= int(text) <= most:
        raise InvalidArgument(f"cron: {name}: {text} is not between {least} and {most}")
    return int(text)
