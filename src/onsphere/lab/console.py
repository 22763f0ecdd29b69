"""What is printed is text: names are never read as markup, and no control character reaches the terminal."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

#: Control characters but newline and tab, what turns the direction of writing, and halves of characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """A text with every control character written as an escape: a backslash and its number."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


class PlainConsole(Console):
    """A console that prints text as it is, in lines that are not wrapped.

    Args:
        **options: As of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text without what a terminal would obey."""
        return super().render_str(visible(text), **options)
