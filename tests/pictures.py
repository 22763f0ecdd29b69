"""Runs whose figures on paper are files with a word in them: drawing takes longer than a tiny run and its page."""

from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from matplotlib.figure import Figure


def _written(figure, file, **options):
    with Path(file).open("wb") as kept:
        kept.write(b"a picture")


@contextmanager
def undrawn():
    """Within it figures are written and not drawn."""
    with (
        patch.object(Figure, "savefig", _written),
        patch.object(Figure, "draw_without_rendering", lambda figure: None),
    ):
        yield
