"""What the package page shows: the README, whose links to files of the checkout become these files' names.

A package page has no such files, so that a link to `docs/calls.md` would lead nowhere there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
ELSEWHERE = ("https://", "http://", "#")


class ReadmeHook(MetadataHookInterface):
    """Fills in the project's readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the readme to the metadata of the project."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = LINK.sub(_shown, readme)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def _shown(link: re.Match[str]) -> str:
    """A link as the package page shows it."""
    target = link[2]
    if target.startswith(ELSEWHERE):
        return link[0]
    return f"`{target}`"
