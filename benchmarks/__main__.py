"""`make bench`: every benchmark in a fresh process, one JSON line each, then a table.

Name some to run only those: `python -m benchmarks command step`.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ALL = (
    "command",
    "costs",
    "simulators",
    "simulate",
    "store_read",
    "step",
    "streaming",
    "tumor",
    "tumor_equality",
)
OUTPUT = Path("runs/bench.jsonl")


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark and return the JSON object it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"benchmark": name, "error": f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"benchmark": name, **result}


def rows(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten a result into lines of a table."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += rows(value, f"{prefix}{key}.")
        else:
            lines.append((prefix + key, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines


def main() -> None:
    """Measure everything named, print the table, keep the JSON lines."""
    names = sys.argv[1:] or ALL
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    results = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        results.append({**measure(name), "on": machine})
        print(json.dumps(results[-1]), flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    with OUTPUT.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)
    for result in results:
        print(f"\n{result['benchmark']}")
        for key, value in rows({k: v for k, v in result.items() if k not in ("benchmark", "on")}):
            print(f"  {key:<44} {value}")
    sys.exit(any("error" in result for result in results))


if __name__ == "__main__":
    main()
