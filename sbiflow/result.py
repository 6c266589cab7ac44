"""What a stage came to: values by key, shown as the command line shows them."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any


class Result(Mapping[str, Any]):
    """The values of a stage by key; `print` shows them as the command does."""

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        self._values, self._text = dict(values), text

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self._text)}</pre>"
