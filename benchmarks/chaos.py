"""`make chaos`: SIGKILL at random times; the data and the weights must equal those of undisturbed runs.

Name some to run only those: `python -m benchmarks.chaos simulate train`.
"""

from __future__ import annotations

import json
import subprocess
import sys

RUNS = {
    "simulate": (["chaos_simulate"],),
    "train": (["chaos_train"],),
    "evaluate": (["chaos_evaluate"], ["chaos_evaluate", "--chunks"]),
    "refine": (["chaos_refine"],),
}


def main() -> None:
    """Run everything named, print one JSON line each; exit code 1 unless all passed."""
    names = sys.argv[1:] or list(RUNS)
    if unknown := set(names) - RUNS.keys():
        raise SystemExit(f"unknown {sorted(unknown)}; valid: {', '.join(RUNS)}")
    failed = []
    for name in names:
        for module, *words in RUNS[name]:
            print(f"chaos: {name} ...", file=sys.stderr, flush=True)
            done = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{module}", *words], check=False
            )
            if done.returncode:
                failed.append(name)
    print(json.dumps({"chaos": names, "failed": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
