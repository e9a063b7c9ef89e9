"""Speed and memory of `prepare` on ChestX-ray14 phantoms of 1024 pixels, against one thread that decodes and resizes.

    PYTHONPATH=src python -m benchmarks.prepare --images 20000 --folder /somewhere/with/15/GB

Both read the same files in one run; the thread takes every tenth before and every tenth other after. Memory is sampled
in the process that prepares, once for a tenth of the images and once for all.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

SIDE, DRAWN, CACHE = 1024, 300, 256
CHILD = """
import sys
import time
from dataclasses import replace
from pathlib import Path
from medtransfer import params
from medtransfer.data import prepare
from medtransfer.data.catalog import TASKS
settings = params.load(Path(sys.argv[2]))
sizes = {"chestxray14": replace(settings.tasks["chestxray14"], cache_size=int(sys.argv[3]))}
settings = replace(settings, tasks=sizes, data=replace(settings.data, phantoms=True))
decode = prepare._Build.decode
def timed(build):
    start = time.perf_counter()
    decode(build)
    print(time.perf_counter() - start)
prepare._Build.decode = timed
prepare.prepare(TASKS["chestxray14"], settings, Path(sys.argv[1]))
"""


def write_image(number: int, drawn: list[Path], folder: Path) -> None:
    """Writes one image: a cut of a drawn phantom, enlarged, with noise of its own."""
    rng = np.random.default_rng(number)
    with Image.open(drawn[number % len(drawn)]) as base:
        x, y, side = *rng.uniform(0, 24, 2), rng.uniform(190, 230)
        cut = base.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    noise = rng.integers(-6, 7, (SIDE, SIDE), dtype=np.int16)
    Image.fromarray(np.clip(np.asarray(cut) + noise, 0, 255).astype(np.uint8)).save(
        folder / f"{number + 1:08d}_000.png"
    )


def make(root: Path, count: int) -> Path:
    """Writes `count` images, one per patient, in the official layout; returns their folder."""
    folder = root / "data/phantoms/chestxray14"
    if folder.exists():
        return folder
    from medtransfer.data.phantoms import write  # not needed where the images are there already

    base = root / "drawn"
    write.write("chestxray14", base, images=DRAWN, size=256, seed=0, contrast=1.0)
    with open(base / "Data_Entry_2017.csv", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    drawn = [base / "images" / row[0] for row in rows]
    (folder / "images").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_image, drawn=drawn, folder=folder / "images"), range(count), chunksize=50))
    names = [f"{number + 1:08d}_000.png" for number in range(count)]
    table = [[name, rows[n % DRAWN][1], "0", str(n + 1), *rows[n % DRAWN][4:]] for n, name in enumerate(names)]
    with open(folder / "Data_Entry_2017.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *table])
    for name, part in (("train_val", names[: -count // 5]), ("test", names[-count // 5 :])):
        (folder / f"{name}_list.txt").write_text("\n".join(part))
    shutil.rmtree(base)
    return folder


def subset(root: Path, whole: Path, count: int) -> None:
    """Links the first images of the whole set into a set of its own."""
    folder = root / "data/phantoms/chestxray14"
    (folder / "images").mkdir(parents=True)
    names = sorted(path.name for path in (whole / "images").iterdir())[:count]
    for name in names:
        (folder / "images" / name).symlink_to(whole / "images" / name)
    shutil.copyfile(whole / "Data_Entry_2017.csv", folder / "Data_Entry_2017.csv")
    for list_name, part in (("train_val", names[: -count // 5]), ("test", names[-count // 5 :])):
        (folder / f"{list_name}_list.txt").write_text("\n".join(part))


def one_thread(paths: list[Path]) -> float:
    """Decodes and resizes in a plain loop; returns images per second."""
    start = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("L").resize((CACHE, CACHE), Image.Resampling.BILINEAR))
    return len(paths) / (time.perf_counter() - start)


def prepare(root: Path, top: Path) -> tuple[float, float, float, float]:
    """Runs `prepare` in a process: seconds in all and for decoding, peak MB of private memory and with mapped files."""
    start, private, whole = time.perf_counter(), 0.0, 0.0
    words = [sys.executable, "-c", CHILD, str(root), str(top / "params.yaml"), str(CACHE)]
    child = subprocess.Popen(words, cwd=top, stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            memory = watched.memory_info()
        except psutil.NoSuchProcess:
            break
        private, whole = max(private, memory.rss - memory.shared), max(whole, memory.rss)
        time.sleep(0.1)
    if child.wait():
        sys.exit("prepare failed")
    assert child.stdout is not None
    return time.perf_counter() - start, float(child.stdout.read()), private / 2**20, whole / 2**20


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the images are written, and kept")
    options = parser.parse_args()
    top, root = Path(__file__).parents[1], options.folder.resolve()
    whole = make(root / "all", options.images)
    paths = sorted((whole / "images").iterdir())
    size = sum(path.stat().st_size for path in paths[::10]) / len(paths[::10]) / 1000
    print(f"{len(paths)} PNG of {SIDE} pixels, {size:.0f} kB each, to {CACHE} pixels")
    shutil.rmtree(root / "tenth", ignore_errors=True)
    subset(root / "tenth", whole, options.images // 10)
    shutil.rmtree(root / "all/data/prepared", ignore_errors=True)
    rates = [one_thread(paths[::10])]
    _, _, *memory_tenth = prepare(root / "tenth", top)
    seconds, decoding, *memory = prepare(root / "all", top)
    rates.append(one_thread(paths[5::10]))
    base, rate, whole_rate = sum(rates) / len(rates), len(paths) / decoding, len(paths) / seconds
    print(f"one thread: {base:.1f} images/s ({rates[0]:.1f} before, {rates[1]:.1f} after)")
    print(f"prepare, decoding: {rate:.1f} images/s: {rate / base:.2f}x")
    print(f"prepare with process start, audit, table and sheets: {whole_rate:.1f} images/s: {whole_rate / base:.2f}x")
    tenth = len(paths) // 10
    for count, (private, mapped) in ((tenth, memory_tenth), (len(paths), memory)):
        print(f"peak memory at {count} images: {private:.0f} MB private, {mapped:.0f} MB with mapped files")


if __name__ == "__main__":
    main()
