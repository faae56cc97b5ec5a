#!/usr/bin/env python3
"""Write docs/predicates.md from the definitions in psg4d_ros/data/simulation/predicates.py; --check only compares."""

import argparse
from pathlib import Path

from psg4d_ros.data.simulation.predicates import predicate_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "predicates.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is not up to date")
    if parser.parse_args().check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != predicate_table())
    PAGE.write_text(predicate_table(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
