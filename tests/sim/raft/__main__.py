"""``python -m tests.sim.raft --seeds 0-199``: simulated lives of a raft cluster; exit 1 if one goes wrong."""

from __future__ import annotations

import argparse
import collections
import sys
import time

import structlog

from tests.sim.raft.tuning import tuned
from tests.sim.raft.world import Options, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft", description=__doc__)
    parser.add_argument("--seeds", default="0-49", help="A-B, both included")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--duration", type=float, default=30.0, help="virtual seconds of faults per seed")
    parser.add_argument("--members", action="store_true", help="also add and remove members")
    parser.add_argument("--snapshot-entries", type=int)
    parser.add_argument("--batch-bytes", type=int)
    parser.add_argument("-v", "--verbose", action="store_true")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    options = Options(
        nodes=chosen.nodes,
        duration_s=chosen.duration,
        has_member_changes=chosen.members,
        snapshot_entries=chosen.snapshot_entries,
        batch_bytes=chosen.batch_bytes,
    )
    first, _, last = chosen.seeds.partition("-")
    totals: collections.Counter[str] = collections.Counter()
    bad = 0
    began = time.perf_counter()
    for seed in range(int(first), int(last or first) + 1):
        world = World(seed, options)
        with tuned(seed):
            world.run()
        totals.update(world.stats)
        if world.violations:
            bad += 1
            print(f"seed {seed} ({world.config.snapshot_entries=}, {world.config.batch_bytes=})")
            print("  " + "\n  ".join(world.violations[: None if chosen.verbose else 3]), flush=True)
    print(f"{bad} bad; {dict(sorted(totals.items()))}; {time.perf_counter() - began:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
