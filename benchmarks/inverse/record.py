"""Results as JSON lines that a repeated benchmark finds again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class MeasuredLog:
    """A file of results by key.

    Arguments:
        path: JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.known = {one["key"]: one for one in map(json.loads, lines)}

    def require(self, start: str, plan: str) -> None:
        """Forget the results whose keys begin with `start` if they were measured by another plan."""
        key = f"{start}plan"
        if self.known.get(key, {}).get("plan") == plan:
            return
        kept = {k: one for k, one in self.known.items() if not k.startswith(start)}
        self.known = {**kept, key: {"key": key, "plan": plan}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(one) + "\n" for one in self.known.values()]
        self.path.write_text("".join(lines), encoding="utf-8")

    def get(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of a key, made now if it is not there."""
        if key not in self.known:
            self.known[key] = {"key": key, **make()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]
