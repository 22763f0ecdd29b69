"""What mkdocs calls while it builds the site: nothing of a page comes from elsewhere."""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
from types import ModuleType
from typing import Any

#: Packages with a page of their own.
_PAGES = (
    *("onsphere", "onsphere.symmetry", "onsphere.roles", "onsphere.surgery", "onsphere.optim", "onsphere.monitor"),
    *("onsphere.dynamics", "onsphere.dynamics.toys", "onsphere.curvature", "onsphere.landscape"),
    *("onsphere.ensembles", "onsphere.lab"),
)

#: The theme fetches a stand-in for workers, which pages on disk have none of; the site has its own.
_FETCHED, _OWN = "https://unpkg.com/iframe-worker/shim", "javascripts/worker.js"

#: How much a page's hits count in the search, by the start of its name; 1 where none fits.
_WEIGHTS = {
    **dict.fromkeys(("claims", "changelog", "coverage"), 0.1),
    **dict.fromkeys(("api/", "landscape-", "results", "performance", "contributing", "laws"), 0.4),
    **dict.fromkeys(("monitor", "sharded-training", "explanation", "thermo", "curvature"), 4.0),
    **dict.fromkeys(("how-to", "which-weights", "language-models", "tutorial"), 2.0),
}


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Put the site's own script in the place of the one that would be fetched."""
    folder = posixpath.dirname(page.url)
    named = output.replace('role="dialog"', 'role="dialog" aria-label="Search"')  # for those who hear the page
    return named.replace(_FETCHED, posixpath.relpath(_OWN, folder) if folder else _OWN)


def on_post_template(output_content: str, *, template_name: str, config: Any) -> str:
    """The same for pages that are made of a template alone."""
    return output_content.replace(_FETCHED, _OWN) if template_name.endswith(".html") else output_content


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Rank pages that explain above those that name every word once."""
    name = page.file.src_uri
    weight = next((weight for start, weight in _WEIGHTS.items() if name.startswith(start)), 1.0)
    page.meta.setdefault("search", {})["boost"] = weight
    package = re.search(r"^<!-- names of ([\w.]+) -->$", markdown, re.MULTILINE)
    return markdown + _names(package[1]) if package else markdown


def _names(package: str) -> str:
    """The public names of a package: each with its docstring, or, where another page has that, a table of links."""
    module = importlib.import_module(package)
    here, elsewhere = [], []
    for name in sorted(set(module.__all__) - {"__version__"}, key=str.lower):
        thing = getattr(module, name)
        if isinstance(thing, ModuleType):
            continue
        home = getattr(module, "_HOME", {}).get(name, package)
        if home in _PAGES and home != package:
            first = inspect.getdoc(thing).splitlines()[0]
            elsewhere.append(f"| [`{name}`]({home.replace('.', '-')}.md#{home}.{name}) | {first} |")
        else:
            here.append(f'<span id="{package}.{name}"></span>\n\n{_entry(package, name, thing)}')
    table = ["| name | |", "|---|---|", *elsewhere, ""] if elsewhere else []
    return "\n" + "\n".join(table + here)


def _entry(package: str, name: str, thing: Any) -> str:
    """What the site says of one name: its docstring as it stands in the code, or as the thing itself has it."""
    # The place where it is defined: a function may have the name of its module.
    defined = getattr(thing, "__module__", None)
    if not defined or not defined.startswith("onsphere"):
        return f"::: {package}.{name}\n"
    if getattr(importlib.import_module(defined), name, None) is thing:
        return f"::: {defined}.{name}\n"
    signature = re.sub(r"<function (\w+) at 0x\w+>", r"\1", str(inspect.signature(thing)))
    made = f"{name}{signature}\n\n{inspect.getdoc(thing)}"  # by the code, at run time
    return f"## {name}\n\n```text\n{made}\n```\n"
