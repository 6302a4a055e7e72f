#!/usr/bin/env python3
"""Runs a release build as its users would, and prints what came of it.

    cargo build --release && tests/acceptance/run.py [SCENARIO]...

Not part of the test suite: scenarios take minutes, and their figures are for reading. Each ends in one line
`PASS name` or `FAIL name: why`; the exit code tells whether any failed. The scenarios stand in the files
beside this one. Needs root, curl, lftp, rsync, rclone, and what a scenario names beside them.
"""

import importlib
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from rig import SCENARIOS


def main():
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in ("run", "rig"):
            importlib.import_module(path.stem)
    unknown = [name for name in sys.argv[1:] if name not in SCENARIOS]
    if unknown:
        sys.exit(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    failed = 0
    for name in sys.argv[1:] or SCENARIOS:
        print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
        try:
            SCENARIOS[name]()
            print(f"PASS {name}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
