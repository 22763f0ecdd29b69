"""Opens a page in headless Chromium, where there is one."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER: chromium is not on PATH, so the report page was NOT opened or checked"
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--v=0", "--window-size=1200,1000", "--virtual-time-budget=20000"),
)


def open_page(page: Path) -> tuple[str, list[str]]:
    """Open a page; returns the document afterwards and the lines of its console."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={page.resolve().parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, profile, "--dump-dom", page.resolve().as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def attribute(document: str, name: str) -> str | None:
    """An attribute of the root element, where the page notes its errors and what it drew."""
    found = re.search(rf'<html[^>]* {name}="([^"]*)"', document)
    return html.unescape(found[1]) if found else None
