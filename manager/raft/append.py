"""How a follower fits a leader's entries into its own log.

The library cuts a follower's log at every append, also when the entries in question are there already, and
answers a late message with a step back. Both lose or stall what was acknowledged. Here:

* only a conflicting entry (same index, other term) cuts the log;
* what lies below the snapshot is committed, hence equal;
* agreement is claimed only as far as the message proves it;
* a refusal goes back one whole term, once, not once per message of the same burst.

Pure: log and message come in, what to do goes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from manager.raft.codec import Entry


class LogView(Protocol):
    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    def term_at(self, index: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Append:
    """What a leader sent, or what is left of it after fitting."""

    prev_index: int
    prev_term: int
    entries: list[Entry]
    commit_index: int


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Append these; the library's own answer is right."""

    append: Append


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Nothing new. The log agrees up to ``upto``, and the answer must claim no more than that."""

    append: Append
    upto: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The log differs before the first entry: ask for everything from ``next_index`` on."""

    next_index: int


def fit(log: LogView, append: Append, *, commit_index: int) -> Fits | Matched | Refused:
    """Decide about one append; ``commit_index`` is the follower's own."""
    prev, prev_term, entries = append.prev_index, append.prev_term, append.entries
    if prev < log.first:
        skip = min(len(entries), log.first - prev)
        if prev + skip < log.first:
            return _matched(log, append, prev + skip, commit_index)
        entries, prev, prev_term = entries[skip:], log.first, log.term_at(log.first)
    if prev > log.last:
        return Refused(next_index=log.last + 1)
    if log.term_at(prev) != prev_term:
        return Refused(next_index=max(_start_of_term(log, prev), log.first + 1))
    known = 0
    while known < len(entries) and _has(log, entries[known]):
        known += 1
    if known == len(entries) and prev + known < log.last:
        return _matched(log, append, prev + known, commit_index)
    if known:
        prev, prev_term, entries = prev + known, entries[known - 1][2], entries[known:]
    fitted = Append(prev_index=prev, prev_term=prev_term, entries=entries, commit_index=append.commit_index)
    return Fits(append=fitted)


def _has(log: LogView, entry: Entry) -> bool:
    return entry[1] <= log.last and log.term_at(entry[1]) == entry[2]


def _start_of_term(log: LogView, index: int) -> int:
    term = log.term_at(index)
    while index > log.first + 1 and log.term_at(index - 1) == term:
        index -= 1
    return index


def _matched(log: LogView, append: Append, upto: int, commit_index: int) -> Matched:
    """An empty append at the log's end keeps our tail; its commit index must not reach into that tail."""
    kept = Append(
        prev_index=log.last,
        prev_term=log.term_at(log.last),
        entries=[],
        commit_index=min(append.commit_index, max(upto, commit_index)),
    )
    return Matched(append=kept, upto=upto)
