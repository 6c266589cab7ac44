"""Text as a terminal shows it."""

from __future__ import annotations

import re

# Controls but for tab and line end, halves of characters that cannot be printed, and changes of direction.
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def shown(value: object) -> str:
    r"""Return a text in which what a terminal would obey is written out, like `\x1b`."""
    return COMMANDS.sub(lambda found: ascii(found[0])[1:-1], str(value))
