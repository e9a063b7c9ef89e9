"""A figure's SVG as a part of the page: its ids are its own, its neutral colours follow the page's."""

from __future__ import annotations

import re
from dataclasses import dataclass

NEUTRAL = {
    "#000000": "ink", "#ffffff": "paper", "#6f6f6f": "faint", "#8c8c8c": "faint", "#e3e3e3": "pale",
    "#0072b2": "blue", "#d55e00": "red", "#009e73": "green", "#e69f00": "orange", "#fbe3b0": "sand",
    "#bdbdbd": "bar", "#56b4e9": "sky", "#cc79a7": "pink",
}  # fmt: skip
"""colour of Matplotlib's SVG -> the page's variable that stands for it; the page has light and dark values"""
FAMILY = re.compile(r" ?font-family: [^;\"]*;?")
ALL_ELEMENTS = re.compile(r"<style type=\"text/css\">\*{([^}]*)}</style>")
"""a rule that would hold for the whole page"""
GROUNDS = re.compile(r'(<g id="(?:figure|axes)_\d+">\s*<g id="patch_\d+">\s*)<path [^>]*style="fill: #ffffff"/>')
"""white behind the figure and its panels, which would hide the page's own"""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    slug: str
    svg: str
    caption: str
    paper: bool = False
    """images or shades that need their own white ground, in the dark too"""

    @property
    def width(self) -> float:
        """Is the figure's own width in points."""
        return float(re.search(r'viewBox="0 0 ([\d.]+) ', self.svg)[1])  # type: ignore[index]  # Matplotlib writes it

    @property
    def inlined(self) -> str:
        """Is the figure's element for an HTML page, described by the caption with the id `caption-<slug>`."""
        text = self.svg[self.svg.index("<svg ") :]
        box = re.search(r'viewBox="[^"]*"', text)[0]  # type: ignore[index]  # Matplotlib writes it
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = FAMILY.sub("", ALL_ELEMENTS.sub("", text))
        text = GROUNDS.sub(r"\1", text)
        text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{self.slug}-", text)
        text = re.sub(r'<g id="[^"]*(?:patch|line2d|text|tick|axis|axes|figure|legend)_\d+">', "<g>", text)
        if not self.paper:
            text = re.sub(r"#[0-9a-f]{6}", _variable, text)
        text = re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :])
        return f'<svg {box} role="img" aria-labelledby="caption-{self.slug}">{text}'


def _variable(found: re.Match[str]) -> str:
    name = NEUTRAL.get(found[0])
    return f"var(--{name})" if name else found[0]
