"""One process of `benchmarks.replica_memory`: loads a version, encodes users, says when, and what it uses when asked."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from mind_dist.encoder import InterestEncoder
from mind_dist.records import BehaviorSequence
from mind_dist.strict_json import to_json

_NUM_USERS = 500


def main(uri: str) -> None:
    """Load the version at a URI; a line on stdin asks for the figures, another one ends."""
    started = time.monotonic()
    encoder = InterestEncoder.load(uri)
    seconds = time.monotonic() - started
    random = np.random.default_rng(0)
    behaviors = random.choice(encoder.item_keys, (_NUM_USERS, encoder.max_behaviors))
    encoder.encode([BehaviorSequence(0, items, np.arange(len(items))) for items in behaviors])
    print("loaded", flush=True)
    sys.stdin.readline()
    print(to_json({**_memory(), "seconds": seconds}), flush=True)
    sys.stdin.readline()


def _memory() -> dict[str, float]:
    """Return what this process uses, in bytes."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: 1024 * float(line.split()[1]) for line in rollup}
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line for line in status if line.startswith("VmHWM")]
    return {name: found[name] for name in ("Rss", "Pss", "Anonymous")} | {"peak": 1024 * float(peak.split()[1])}


if __name__ == "__main__":
    main(sys.argv[1])
