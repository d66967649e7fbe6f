"""Reading command lines: docker's rules."""

from __future__ import annotations

import pytest

from swarmpy.cli.flags import Command, HelpWanted, UsageError, listed, number, parse, switch, text, usage

COMMAND = Command(
    run=lambda *_: 0,
    summary="Try",
    arguments="IMAGE [ARG...]",
    least=1,
    most=None,
    flags=(
        switch("detach", "", short="d"),
        switch("quiet", "", short="q"),
        text("name", "", short="n", default="none"),
        number("replicas", ""),
        listed("env", "", short="e"),
    ),
)
STRICT = Command(run=COMMAND.run, summary="", least=1, most=None, flags=COMMAND.flags, is_interspersed=False)


@pytest.mark.parametrize(
    ("argv", "name", "detach"),
    [
        (["x", "--name", "web"], "web", False),
        (["--name=web", "x"], "web", False),
        (["-n", "web", "x"], "web", False),
        (["-nweb", "x"], "web", False),
        (["-n=web", "x"], "web", False),
        (["-dqnweb", "x"], "web", True),
        (["--detach", "x"], "none", True),
        (["--detach=true", "x"], "none", True),
        (["--detach=false", "x"], "none", False),
        (["-d=false", "x"], "none", False),
        (["--name", "a", "--name", "b", "x"], "b", False),
        (["--name", "-d", "x"], "-d", False),
        (["--name=", "x"], "", False),
    ],
)
def test_flags(argv: list[str], name: str, detach: bool) -> None:
    arguments, options = parse(COMMAND, argv)
    assert arguments == ["x"]
    assert options.text("name") == name
    assert options.on("detach") is detach


def test_a_switch_takes_no_next_word() -> None:
    arguments, options = parse(COMMAND, ["--detach", "false"])
    assert arguments == ["false"]
    assert options.on("detach")


def test_lists_and_numbers() -> None:
    _, options = parse(COMMAND, ["x", "-e", "A=b", "--env=C", "--replicas", "-1"])
    assert options.many("env") == ["A=b", "C"]
    assert options.number("replicas") == -1
    assert not options.is_set("name")


def test_anothers_command_line_is_left_alone() -> None:
    arguments, options = parse(STRICT, ["-d", "host", "sh", "-c", "echo --name", "--", "-q"])
    assert arguments == ["host", "sh", "-c", "echo --name", "--", "-q"]
    assert options.on("detach")
    assert not options.on("quiet")


def test_two_dashes_end_flags() -> None:
    arguments, _ = parse(COMMAND, ["x", "--", "--name", "-d"])
    assert arguments == ["x", "--name", "-d"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--bogus", "x"], "unknown flag: --bogus"),
        (["-zq", "x"], "unknown shorthand flag: 'z' in -zq"),
        (["x", "--name"], "flag needs an argument: --name"),
        (["x", "-n"], "flag needs an argument: 'n' in -n"),
        (["--replicas", "many", "x"], 'invalid argument "many" for "--replicas" flag'),
        (["--detach=maybe", "x"], 'invalid argument "maybe" for "--detach" flag'),
        ([], "requires at least 1 argument"),
    ],
)
def test_wrong_lines_are_named(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(COMMAND, argv)


def test_counts() -> None:
    one = Command(run=COMMAND.run, summary="", least=1, most=1)
    with pytest.raises(UsageError, match="requires exactly 1 argument"):
        parse(one, ["a", "b"])
    none = Command(run=COMMAND.run, summary="")
    with pytest.raises(UsageError, match="accepts no arguments"):
        parse(none, ["a"])


def test_help() -> None:
    with pytest.raises(HelpWanted):
        parse(COMMAND, ["x", "--help"])
    text_ = usage("swarmpy try", COMMAND)
    assert text_.startswith("Usage:  swarmpy try [OPTIONS] IMAGE [ARG...]\n\nTry\n\nOptions:\n")
    assert "  -d, --detach" in text_
    assert "(default none)" in text_
