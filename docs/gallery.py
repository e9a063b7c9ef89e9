"""Makes the report of the gallery of one that `compare` wrote: its pictures get 64 colours, a third of the bytes.

    python docs/gallery.py data/results/report/index.html

Only reports of phantoms belong into the repository.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

from PIL import Image

COLOURS = 64


def main() -> None:
    """Reads the report that the command line names and writes `docs/gallery/report.html`.

    Raises:
        SystemExit: the report shows real images.
    """
    page = Path(sys.argv[1]).read_text()
    if "Synthetic phantoms" not in page:
        raise SystemExit(f"{sys.argv[1]} is no report of phantoms: real images stay out of the repository")
    small = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=]+)", lambda found: _smaller(found[1]), page)
    (Path(__file__).parent / "gallery/report.html").write_text(small)


def _smaller(picture: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    file = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


if __name__ == "__main__":
    main()
