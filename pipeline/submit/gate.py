"""Are all simulations there? `python -m pipeline.submit.gate RUN`: asked by the job that follows an array.

One task of an array may fail to start or be lost without harm, as the others do its work: so the next job waits
for the end of all tasks, and looks for itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.config import Config, load
from pipeline.ending import ending
from pipeline.errors import UsageError
from pipeline.run import RunDirectory
from pipeline.simulate.setup import check_failed
from pipeline.store import Store


def gate(config: Config, run: RunDirectory) -> None:
    """Refuse to go on without simulations, or with too many that failed.

    Raises:
        UsageError: simulations are missing.
        TooManyFailed: more than the share `config.max_failed` of a stream is not ok.
    """
    for stream, budget in config.budgets.items():
        if not budget:
            continue
        path = run.store(stream)
        counts = Store.open(path).counts(budget) if path.exists() else {"missing": budget}
        if counts["missing"]:
            raise UsageError(
                f"{counts['missing']} of {budget} {stream} simulations are missing: the tasks of the array ended "
                "before (see their logs); submit again to continue"
            )
        check_failed(stream, counts, config.max_failed)


def main() -> None:
    """Exit with 0, or with the code of the error and its message."""
    run = RunDirectory(Path(sys.argv[1]))
    with ending():
        gate(load(run), run)


if __name__ == "__main__":
    main()
