"""`make torture`: injure runs at random, repeat them, compare; a table of the trials by kind and verdict.

    python -m benchmarks.torture --trials 500 --seed 1 --kinds damage,command,kill,disk,odd,ray --minutes 20
    python -m benchmarks.torture --trial damage-1-17        repeats exactly this one and says all about it

Four verdicts are failures: `silent` (other values with exit code 0), `traceback`, `hang`, and `stuck` (the run can
never go on although what was injured can be made again). `equal` and `clear error` are what is promised: a message
with an exit code of its own and, once what it says is done, a run that is equal.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

os.environ |= {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg",
    "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip

from benchmarks.torture.base import Base
from benchmarks.torture.trial import BAD
from benchmarks.torture.trials import SHARES, make

VERDICTS = ("equal", "clear error", *BAD)
ROOT = Path(__file__).parents[2]
ROOM = 1 << 30  # bytes that a folder in memory must have


def names(kinds: list[str], trials: int, seed: int) -> list[str]:
    """Return the names of the trials, kinds mixed as `SHARES` says."""
    found, due = [], dict.fromkeys(kinds, 0.0)
    total = sum(SHARES[kind] for kind in kinds)
    counts: Counter[str] = Counter()
    for _ in range(trials):
        for kind in kinds:
            due[kind] += SHARES[kind] / total
        kind = max(due, key=lambda k: due[k])
        due[kind] -= 1
        found.append(f"{kind}-{seed}-{counts[kind]}")
        counts[kind] += 1
    return found


def worker(home: Path, wanted: list[str], until: float, quick: bool) -> None:
    """Make a quiet run, then trials; print one JSON object a line."""
    disk = home / "disk"
    disk.mkdir(parents=True)
    if any(name.startswith("disk") for name in wanted):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            print("NOT DONE: full disks need root and mount; only limits of files", file=sys.stderr)
    base = Base(home, disk, quick).build()
    for name in wanted:
        if time.time() > until:
            break
        print(json.dumps(make(base, name).plain()), flush=True)


def start(home: Path, wanted: list[str], until: float, quick: bool) -> subprocess.Popen[str]:
    """Start a worker, in a mount namespace of its own where that is allowed."""
    home.mkdir(parents=True)
    (home / "wanted.json").write_text(json.dumps([wanted, until, quick]))
    words = [sys.executable, "-m", "benchmarks.torture", "--worker", str(home)]
    unshare = ["unshare", "--mount"]
    with suppress(FileNotFoundError):
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
            words = [*unshare, *words]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def torture(
    wanted: list[str],
    workers: int,
    minutes: float,
    folder: Path,
    quick: bool = False,
    log: TextIO | None = None,
) -> list[dict[str, Any]]:
    """Do the trials in several processes; return what became of them."""
    until = time.time() + 60 * minutes
    started = [
        start(folder / f"worker-{k}", wanted[k::workers], until, quick) for k in range(workers)
    ]
    results, streams = [], {process.stdout: process for process in started}
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if not (line := key.fileobj.readline()):
                    selector.unregister(key.fileobj)
                    continue
                results.append(json.loads(line))
                if log:
                    log.write(line)
                    log.flush()
                told(results[-1], len(results), len(wanted))
    if any(process.wait() for process in started):
        raise SystemExit(f"a worker ended early: see above; {len(results)} trials were done")
    return results


def told(trial: dict[str, Any], number: int, total: int) -> None:
    if trial["verdict"] in BAD or number % 50 == 0:
        line = (
            f"{number}/{total} {trial['name']} {trial['what']}, {trial['how']}: {trial['verdict']}"
        )
        print(
            line
            + "".join(
                f"\n    {v}: {cause}: {detail[-200:]}" for v, cause, detail in trial["problems"]
            ),
            file=sys.stderr,
            flush=True,
        )


def table(results: list[dict[str, Any]]) -> str:
    """Return the trials by kind and place, and the damages by their way."""
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for trial in results:
        groups[trial["kind"], trial["what"]][trial["verdict"]] += 1
        if trial["kind"] == "damage":
            groups["  way", trial["how"].split(" + ")[0]][trial["verdict"]] += 1
        groups["ALL", trial["kind"]][trial["verdict"]] += 1
        groups["ALL", "trials"][trial["verdict"]] += 1
    head = f"{'kind':<8}{'what':<28}{'trials':>7}" + "".join(f"{v:>12}" for v in VERDICTS)
    lines = [head]
    for (kind, what), counts in sorted(groups.items(), key=lambda g: (g[0][0] == "ALL", g[0])):
        cells = "".join(f"{counts[v] or '.':>12}" for v in VERDICTS)
        lines.append(f"{kind:<8}{what[:27]:<28}{counts.total():>7}{cells}")
    return "\n".join(lines)


def causes(results: list[dict[str, Any]]) -> str:
    """Return the failures, equal causes together, the most frequent first."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for trial in results:
        for verdict, cause, _ in trial["problems"]:
            groups[verdict, trial["what"], cause].append(trial["name"])
    lines = []
    for (verdict, what, cause), found in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        seeds = " ".join(sorted(set(found))[:4])
        lines.append(f"{len(found):>4}  {verdict:<10} {what:<20} {cause}\n{'':>16}{seeds}")
    return "\n".join(lines)


def home(given: Path | None) -> Path:
    """Return a new folder, in memory where there is room: what is killed is processes, not the machine."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    return Path(tempfile.mkdtemp(prefix="torture-", dir=given or (memory if roomy else None)))


def main() -> None:
    """Do the trials and print the table; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(SHARES))
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no trial afterwards")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--trial", action="append", help="do only this one, and tell all about it")
    parser.add_argument("--folder", type=Path, help="where runs are made; default: in memory")
    parser.add_argument("--log", type=Path, help="keep what became of each trial, JSON lines")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        wanted, until, quick = json.loads((given.worker / "wanted.json").read_text())
        worker(given.worker, wanted, until, quick)
        return
    kinds = given.kinds.split(",")
    if unknown := set(kinds) - SHARES.keys():
        raise SystemExit(f"unknown {sorted(unknown)}; valid: {', '.join(SHARES)}")
    wanted = given.trial or names(kinds, given.trials, given.seed)
    folder = home(given.folder)
    try:
        with open(given.log or os.devnull, "w", encoding="utf-8") as log:
            workers = min(given.workers, len(wanted))
            results = torture(wanted, workers, given.minutes, folder, log=log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.trial:
        print(json.dumps(results, indent=1))
    print(table(results))
    failed = [trial["name"] for trial in results if trial["verdict"] in BAD]
    if failed:
        print(f"\n{causes(results)}\n\nfailed: {' '.join(failed)}")
    print(json.dumps({"benchmark": "torture", "trials": len(results), "failed": len(failed)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
