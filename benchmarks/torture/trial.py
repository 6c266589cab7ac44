"""What became of a trial."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture.command import Done

BAD = ("hang", "traceback", "silent", "stuck")  # the worst first


@dataclass
class Trial:
    """What became of a trial; `problems` are (verdict, cause, detail)."""

    name: str
    kind: str = ""
    what: str = ""
    how: str = ""
    where: str = ""
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def verdict(self) -> str:
        worst = [kind for kind in BAD if any(kind == problem[0] for problem in self.problems)]
        return worst[0] if worst else "clear error" if self.errors else "equal"

    def bad(self, verdict: str, cause: str, detail: str = "") -> None:
        self.problems.append((verdict, cause, detail[:500]))

    def judge(self, done: Done, allowed: tuple[int, ...] = (0,)) -> bool:
        """Note a hang or a traceback, or a failure without a message; return whether it may go on."""
        if done.hung:
            self.bad("hang", f"{done.shown} hangs", done.err[-300:])
        elif done.traceback:
            self.bad("traceback", f"{done.shown}: {tail(done)}", done.err[-1500:])
        elif done.code not in allowed and not done.clear:
            self.bad(
                "traceback", f"{done.shown}: code {done.code} without a message", done.err[-300:]
            )
        else:
            return True
        return False

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def tail(done: Done) -> str:
    """Return the last frame of the product and the exception of a traceback."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', done.err)
    ours = [
        f
        for f in frames
        if re.search(r"/(pipeline|evaluation|estimators|simulators|cluster)/", f[0])
    ]
    last = done.err.strip().splitlines()[-1:] or [""]
    errors = [
        line
        for line in done.err.splitlines()
        if re.match(r"^[\w.]+(Error|Exception|Interrupt)\b", line)
    ]
    where = "/".join(Path(ours[-1][0]).parts[-2:]) + f":{ours[-1][2]}" if ours else "?"
    text = (errors or last)[-1]
    return f"{where}: {re.sub(r'/[^ :]*/', '', text)[:120]}"
