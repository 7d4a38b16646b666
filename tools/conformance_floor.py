"""Runs a fixed sample of the conformance suites and fails below the floors in `tools/floors.json`.

    python -m tools.conformance_floor FOLDER [--raise]

FOLDER holds the suites. Floors are shares of cases that pass; `--raise` writes what was reached
where that is higher.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

FLOORS = Path(__file__).with_name("floors.json")
SAMPLES = {
    "poly_suite": ["--limit-per-group", "3"],
    "prims_suite": ["--limit-per-group", "1"],
    "peer_suite": [
        "--match",
        r"examples|primitives\.(lax|nnx)",
        "--limit-per-group",
        "1",
    ],
}
SUMMARY = re.compile(r"^(\d+) of (\d+) applicable cases pass", re.MULTILINE)


def share(folder: Path, suite: str, options: list[str]) -> tuple[float, str]:
    """The share of cases of a sample that pass, and what the suite printed."""
    command = [sys.executable, f"{suite}.py", "--jobs", "2", "--failures", *options]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    found = SUMMARY.search(output)
    if found is None:
        raise SystemExit(f"{suite} printed no summary:\n{output[-2000:]}")
    return int(found[1]) / int(found[2]), output


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--raise",
        dest="lift",
        action="store_true",
        help="write higher floors where they are reached",
    )
    options = parser.parse_args()
    floors = json.loads(FLOORS.read_text())
    low = []
    for suite, sample in SAMPLES.items():
        reached, output = share(options.folder, suite, sample)
        print(f"{suite}: {reached:.4f}, floor {floors[suite]:.4f}")
        if reached < floors[suite]:
            low.append(suite)
            print(output[-4000:])
        floors[suite] = max(floors[suite], int(reached * 1e4) / 1e4)
    if options.lift:
        FLOORS.write_text(json.dumps(floors, indent=2) + "\n")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
