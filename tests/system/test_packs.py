"""Results that travel, by the command line: two machines' runs packed, merged, trained again, forged and found out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from medtransfer.packs import file, verify
from tests.support import packs, workspace

pytestmark = pytest.mark.slow

TASKS = ["shenzhen", "montgomery"]


def study(root: Path, top: Path) -> Path:
    root.mkdir()
    workspace.make(root, top, *TASKS)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["benchmark"] |= {"tasks": TASKS, "seeds": [0, 1]}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return root


def done(top: Path, root: Path, *words: str, code: int = 0) -> str:
    found, output = workspace.run(top, root, *words)
    assert found == code, output
    return output


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Path:
    root = study(tmp_path_factory.mktemp("packs") / "a", top)
    done(top, root, "benchmark")
    done(top, root, "pack", "Lab A", "--out", "a.pack")
    return root


@pytest.fixture(scope="module")
def other(lab: Path, top: Path) -> Path:
    """The same study on what may be another kind of CPU."""
    root = study(lab.with_name("b"), top)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in verify.BASIC.items():
            patch.setenv(name, value)
        done(top, root, "benchmark")
    done(top, root, "pack", "Lab B", "--out", "b.pack")
    return root


def state(root: Path, *but: str) -> Mapping[str, Any]:
    """Lists a study's files, their sizes and times."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and not any(word in str(path) for word in ("data/verify", ".pack", *but))
    }


def verdicts(path: Path) -> list[str]:
    return [one.verdict for one in file.read(path).certificates[-1].checked]


def test_a_share_that_is_trained_again_is_equal_and_a_forger_is_found_out(lab: Path, top: Path) -> None:
    before, members = state(lab), packs.members(lab / "a.pack")
    words = ("--lab", "Lab C", "--share", "0.5", "--draw", "1")
    said = done(top, lab, "verify", "a.pack", *words, "--out", "checked.pack")
    assert "2 of 4 runs of Lab A drawn" in said
    assert "2 runs: 0 finished before, 2 to do" in said  # the study's own are not taken
    assert verdicts(lab / "checked.pack") == ["equal", "equal"]
    assert state(lab) == before
    found = file.read(lab / "checked.pack")
    own = found.contributions[0].digest
    assert (found.status(own), found.certificates[0].draw, found.certificates[0].by) == ("verified", 1, "Lab C")
    after = packs.members(lab / "checked.pack")
    name = f"contributions/{own}.json"
    assert after[name] == members[name]

    def better(tree: dict[str, Any]) -> None:
        scores = tree["results"]["scores"]
        for name in ("test_auc", "test_dice"):
            scores[name] = [None if value is None else value + 0.001 for value in scores[name]]

    packs.forge(lab / "a.pack", lab / "forged.pack", better)
    assert file.read(lab / "forged.pack").contributions[0].lab == "Lab A"  # no hash finds that
    said = done(top, lab, "verify", "forged.pack", *words, code=1)
    assert "2 of 2 runs came out different; the certificate in" in said
    assert verdicts(lab / "forged.pack") == ["different", "different"]
    forged = file.read(lab / "forged.pack")
    assert forged.status(forged.contributions[0].digest) == "refuted"
    assert "by equal arithmetic" in done(top, lab, "merge", "a.pack", "forged.pack", code=1)


def test_two_machines_packs_are_merged_and_each_is_within_the_spread_of_the_other(
    lab: Path, other: Path, top: Path
) -> None:
    both = (str(lab / "a.pack"), str(other / "b.pack"))
    a, b = (file.read(Path(path)).contributions[0] for path in both)
    assert {one.digest for one in a.results} == {one.digest for one in b.results}
    assert {one.digest: one.scores for one in a.results} != {one.digest: one.scores for one in b.results}
    said = done(top, lab, "merge", *both, "--out", "ab.pack")
    assert "4 runs were trained by several labs; those of unlike machines are" in said
    assert "beyond a tolerance of 1e-09" in done(
        top, lab, "merge", *both, "--out", "no.pack", "--tolerance", "1e-9", code=1
    )
    assert [one.lab for one in file.read(lab / "ab.pack").contributions] == ["Lab A", "Lab B"]  # as they finished
    assert "--of must name one contribution" in done(top, lab, "verify", "ab.pack", "--lab", "Lab A", code=1)
    words = ("--lab", "Lab A", "--of", "Lab B", "--share", "0.6", "--draw", "3", "--only", "montgomery")
    said = done(top, lab, "verify", "ab.pack", *words)
    assert verdicts(lab / "ab.pack") == ["within", "within"]
    whole = file.read(lab / "ab.pack")
    assert whole.certificates[0].rule == verify.DOCUMENTED
    assert {one.lab: whole.status(one.digest) for one in whole.contributions} == {
        "Lab A": "claimed",
        "Lab B": "verified",
    }
    done(top, lab, "verify", "ab.pack", *words, "--spread", "0", "--out", "strict.pack", code=1)
    assert "different" in verdicts(lab / "strict.pack")
    assert "auc" in done(top, lab, "compare", "--pack", "ab.pack").lower()


def test_a_spread_can_be_measured_here(lab: Path, other: Path, top: Path) -> None:
    done(
        top, lab, "verify", str(other / "b.pack"), "--lab", "Lab A", "--share", "0.1", "--draw", "0", "--only",
        "montgomery", "--spread", "measure", "--out", "measured.pack",
    )  # fmt: skip
    (certificate,) = file.read(lab / "measured.pack").certificates
    assert "between 3 trainings of montgomery random@test_resnet" in certificate.rule
    (checked,) = certificate.checked
    assert checked.verdict in ("equal", "within")  # one of the three is what the other lab trained under
    assert checked.spread is None or 0 < checked.spread < 0.2


def test_what_cannot_be_trained_here_is_named_before_anything_is(lab: Path, top: Path) -> None:
    root = study(lab.with_name("c"), top)
    shutil.copyfile(lab / "a.pack", root / "a.pack")
    shutil.rmtree(root / "data/phantoms/shenzhen")
    words = ("verify", "a.pack", "--lab", "Lab C", "--share", "1", "--draw", "0")
    said = done(top, root, *words, code=1)
    assert "2 of 4 drawn runs cannot be trained here, and nothing was trained" in said
    assert "task shenzhen: looked for the shenzhen files in" in said
    assert "limit the draw to tasks whose data are here: --only a,b" in said
    assert not list(root.rglob("cell.json"))
    image = next((root / "data/phantoms/montgomery").rglob("*.png"))
    shutil.copyfile(next(path for path in image.parent.glob("*.png") if path != image), image)
    said = done(top, root, *words, "--only", "montgomery", code=1)
    assert "2 of 2 drawn runs cannot be trained here" in said
    assert file.read(root / "a.pack").certificates == ()
