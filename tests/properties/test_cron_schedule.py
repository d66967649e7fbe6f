"""Schedules: every tick is found, once and in order, also where clocks change; held against brute force."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.limits import CRON_TEXT_CHARS_MAX
from swarmpy.model.cron_schedule import NAMED, Schedule, parse, zone_of
from swarmpy.model.ids import SECOND_NS, Timestamp

MINUTE = 60 * SECOND_NS
CHANGES = {
    # a zone and a moment near which its clocks change
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),  # by half an hour
    "America/Asuncion": ("2023-10-01T04:00", "2024-03-24T03:00"),  # at midnight
    "Asia/Beirut": ("2024-03-30T22:00", "2024-10-26T21:00"),
    "Pacific/Apia": ("2011-12-30T10:00",),  # a day was left out
    "Asia/Kathmandu": ("2026-01-01T00:00",),  # never, and not by whole hours
    "UTC": ("2028-02-29T12:00",),
}
HALF = 15 * 60
"""Minutes looked at before and after."""


def at(text: str) -> Timestamp:
    return Timestamp(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_NS)


def fields(least: int, most: int) -> st.SearchStrategy[str]:
    numbers = st.integers(least, most)
    ranges = st.tuples(numbers, numbers).map(lambda pair: f"{min(pair)}-{max(pair)}")
    steps = st.integers(1, most)
    part = st.one_of(
        numbers.map(str),
        ranges,
        st.builds("{}/{}".format, ranges, steps),
        st.builds("*/{}".format, steps),
    )
    return st.one_of(st.just("*"), st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


texts = st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7)).map(" ".join)
moments = st.sampled_from([(zone, moment) for zone, found in CHANGES.items() for moment in found])


def matches(schedule: Schedule, local: datetime) -> bool:
    is_day, is_weekday = local.day in schedule.days, local.isoweekday() % 7 in schedule.weekdays
    has_day = (is_day or is_weekday) if schedule.is_either_day else (is_day and is_weekday)
    return local.hour * 60 + local.minute in schedule.minutes and local.month in schedule.months and has_day


def brute_force(schedule: Schedule, zone: tzinfo, first: Timestamp, last: Timestamp) -> list[Timestamp]:
    """Every minute of the real time after ``first`` looked at, as the docstring of schedules has it."""
    found = []
    moment = datetime.fromtimestamp(first // SECOND_NS, UTC)
    before = moment.astimezone(zone).replace(tzinfo=None)
    for number in range(1, (last - first) // MINUTE + 1):
        now = (moment + timedelta(minutes=number)).astimezone(zone)
        local = now.replace(tzinfo=None)
        if schedule.is_every_hour:
            is_due = matches(schedule, local)
        else:
            is_due = matches(schedule, local) and not now.fold
            skipped = before + timedelta(minutes=1)
            while skipped < local:  # clocks went forward over these
                is_due = is_due or matches(schedule, skipped)
                skipped += timedelta(minutes=1)
        if is_due:
            found.append(Timestamp(first + number * MINUTE))
        before = local
    return found


@settings(max_examples=20, deadline=None)
@given(text=texts, where=moments)
def test_ticks_are_those_of_brute_force(text: str, where: tuple[str, str]) -> None:
    zone, moment = where
    try:
        schedule = parse(text, zone)
    except InvalidArgument:
        return  # no such date
    first, last = Timestamp(at(moment) - HALF * MINUTE), Timestamp(at(moment) + HALF * MINUTE)
    wanted = brute_force(schedule, zone_of(zone), first, last)
    found: list[Timestamp] = []
    tick = schedule.after(first)
    while tick is not None and tick <= last:
        assert tick > (found[-1] if found else first)
        found.append(tick)
        tick = schedule.after(tick)
    assert found == wanted
    assert schedule.count(first, last) == len(wanted)
    middle = at(moment)
    assert schedule.count(first, middle) + schedule.count(middle, last) == len(wanted)
    for earlier, later in itertools.islice(itertools.pairwise(wanted), 50):
        assert schedule.until(later) == later
        assert schedule.until(Timestamp(later - 1)) == earlier
        assert schedule.count(earlier, later) == 1


@settings(max_examples=60, deadline=None)
@given(text=texts, zone=st.sampled_from(sorted(CHANGES)), seconds=st.integers(0, 60 * 366 * 86_400))
def test_the_next_tick_is_later_and_nothing_lies_between(text: str, zone: str, seconds: int) -> None:
    try:
        schedule = parse(text, zone)
    except InvalidArgument:
        return
    now = Timestamp(at("2000-01-01T00:00") + seconds * SECOND_NS)
    tick = schedule.after(now)
    assert tick is not None
    assert tick > now
    assert tick % MINUTE == 0
    assert schedule.until(tick) == tick
    last = schedule.until(Timestamp(tick - 1))
    assert last is None or last <= now


@given(text=st.text("0123456789*/,-@jan mon", max_size=40))
def test_whatever_is_typed_is_a_schedule_or_a_refusal_that_says_so(text: str) -> None:
    try:
        parse(text)
    except InvalidArgument as error:
        told = str(error)
    else:
        told = "cron: "
    assert told.startswith("cron: ")


@pytest.mark.parametrize("name", NAMED)
def test_names_stand_for_fields(name: str) -> None:
    assert parse(name) == parse(NAMED[name])


def test_names_of_months_and_days() -> None:
    assert parse("0 0 * jan-mar,DEC mon,7") == parse("0 0 * 1-3,12 0,1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("* * * *", "has 4 fields and needs 5: minute, hour, day of month, month, day of week"),
        ("60 * * * *", "minute: 60 is not between 0 and 59"),
        ("* 24 * * *", "hour: 24 is not between 0 and 23"),
        ("* * 0 * *", "day of month: 0 is not between 1 and 31"),
        ("* * * foo *", 'month: "foo" is no number from 1 to 12, or one of jan'),
        ("* * * * 8", "day of week: 8 is not between 0 and 7"),
        ("5-1 * * * *", 'minute: "5-1" ends before it begins'),
        ("*/0 * * * *", 'minute: the step of "*/0" is 0'),
        ("5/10 * * * *", 'a step needs a range: write "5-59/10"'),
        ("1,,2 * * * *", 'minute: "" is none of'),
        ("* * 30 2 *", "never comes"),
        ("@every 5m", "give five fields, or one of @yearly"),
        ("*" * (CRON_TEXT_CHARS_MAX + 1), f"at most {CRON_TEXT_CHARS_MAX} characters"),
    ],
)
def test_a_refusal_names_the_field(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "../../etc/passwd", "America", "x" * 1000, "a\0b", "/etc/x"]
)
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown time zone"):
        parse("* * * * *", name)


def test_clock_changes_in_words() -> None:
    """The examples of docs/jobs.md."""
    berlin = ZoneInfo("Europe/Berlin")

    def ticks(text: str, day: str, count: int) -> list[str]:
        schedule, tick = parse(text, "Europe/Berlin"), at(day)
        shown = []
        for _ in range(count):
            found = schedule.after(tick)
            assert found is not None
            tick = found
            shown.append(datetime.fromtimestamp(tick // SECOND_NS, berlin).strftime("%H:%M%z"))
        return shown

    assert ticks("30 2 * * *", "2026-03-28T12:00", 2) == ["03:00+0200", "02:30+0200"]
    assert ticks("30 2 * * *", "2026-10-24T12:00", 2) == ["02:30+0200", "02:30+0100"]
    assert ticks("30 * * * *", "2026-03-29T00:00", 2) == ["01:30+0100", "03:30+0200"]
    assert ticks("30 * * * *", "2026-10-24T23:45", 3) == ["02:30+0200", "02:30+0100", "03:30+0100"]
