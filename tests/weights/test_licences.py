from __future__ import annotations

import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

from medtransfer.weights.licences import commercial, joined, parts, sentence, split, strictest, terms

YES = """
MIT | mit | The MIT License | MIT License | ['mit'] | license:mit | MIT (repo) | mit (hf card) | \uff2d\uff29\uff34
MIT (README badge; no LICENSE file) | Apache-2.0 | apache-2.0 (card) | apache-2.0 (hf card) | Apache-2.0 (repo)
Apache License 2.0 | Apache License, Version 2.0 | apache2 | apache2.0 | Apache 2 | APACHE_2.0 | Apache
Apache-2.0 (code and weights) | https://www.apache.org/licenses/LICENSE-2.0 | https://opensource.org/licenses/MIT
BSD | BSD-2-Clause | bsd-3-clause | BSD 3-Clause "New" or "Revised" License | 3-clause BSD | New BSD License | 0BSD
BSD (pycontrast/LICENSE) | ISC | Unlicense | The Unlicense | CC0 | CC0-1.0 | CC0 1.0 Universal | public domain
CC BY | CC BY 4.0 | cc-by-4.0 (card of s16) | Creative Commons Attribution 4.0 International
Attribution 4.0 International (CC BY 4.0) | http://creativecommons.org/licenses/by/4.0/ | CC BY 4.0 (non-NC)
CC-BY-SA-4.0 | cc by sa | CC BY-SA 3.0 Unported | https://creativecommons.org/publicdomain/zero/1.0/
NVIDIA Open Model License | nvidia-open-model-license | GPL-3.0 | GPLv3 | AGPL-3.0-only | LGPL-2.1+ | MPL-2.0
GNU General Public License v3 | MIT or Apache-2.0 | MIT/Apache-2.0 | free for commercial use | none
Creative Commons Zero v1.0 | weights a: MIT | images of x: CC0
weights registry:medtransfer-backbone-resnet50/champion: Apache-2.0
"""
NO = """
CC-BY-NC-4.0 | cc-by-nc-4.0 | CC BY-NC 4.0 | CC_BY_NC | CCBYNC | CC BY\u2013NC 4.0 | by-nc | Creative Commons BY NC
Attribution-NonCommercial | Attribution-NonCommercial-ShareAlike 4.0 International | CC BY-NC-SA 4.0 | cc-by-nc-nd-4.0
https://creativecommons.org/licenses/by-nc/4.0/ | CC-BY-ND-4.0 | Creative Commons Attribution-NoDerivatives 4.0
CC-BY-NC-4.0 (weights); Apache-2.0 (code) | CC-BY-NC-4.0 (weights); converter without licence file
CC-BY-NC-4.0 (LICENSE) | CC-BY-NC-4.0 (README) | cc-by-nc-4.0 (pretrained_cfg in config.json)
MIT (code); weights CC BY-NC 4.0
stated as RAIL-M (gated) by one user, CC BY-NC-ND 4.0 by another | Apache-2.0 with Commons Clause
fair-noncommercial-research-license | FAIR Noncommercial Research License | apple-amlr | Apple AMLR | MSRLA
Microsoft Research License Agreement | ASU non-commercial | ASU non-commercial (Ark_Plus/LICENSE present)
ASU non-commercial research (repo); Zenodo licence not found | seer-license | NVIDIA Source Code License-NC
Stanford University Dataset Research Use Agreement: registration, non-commercial | Stanford DUA
RSNA-STR competition rules: registration, non-commercial | research use with citation | research only
for research purposes only | non-commercial research | research and education, non-commercial | academic use
academic use only | evaluation only | personal use only | educational use only | no commercial use
not for commercial use | MIT, no commercial use | commercial use is not permitted | commercial use prohibited
PolyForm Noncommercial 1.0.0 | NON COMMERCIAL | weights MIT-like: non-commercial | no derivatives
weights a: MIT; images of b: CC-BY-NC-4.0 | weights a: CC-BY-NC-4.0; images of b: CC0
"""
UNCLEAR = """
not stated | not found | other | unknown | ours | see card | weights not stated | repo MIT; weights not stated
not stated (repository MIT) | repo LICENSE MIT; weights not separately stated | code MIT, weights not stated
no licence file in the repository | MIT (LICENSE, "Use MIT license (#9)"; earlier MSRLA) | MIT (earlier CC-BY-NC-4.0)
MIT (LICENSE since 2023-01-18); README still says CC-BY-NC-4.0 | MIT (the README still says CC-BY-NC-4.0)
Apache-2.0 (code) | Apache-2.0 (repository); DINOv3 licence of the start | DINOv3 License (gated download)
Apache-2.0 (stated by users as published) | stated as not redistributable by a user (NOTICE)
Health AI Developer Foundations terms (gated) | HAI-DEF | OpenRAIL | creativeml-openrail-m | RAIL-M | llama2
Llama 3 Community License | gemma | apple-ascl | mobileone-license | qwen-community-1.0 | dinov3-license
NVIDIA Source Code License | permitted | limited | use is permitted and not limited | mit_b2 | MiT-B2 | MiT B2 weights
BSD.pth | weights in bsd.zip | https://host/mit | CC | Creative Commons | CC BY and others | not MIT | MIT + SSPLv1
BSL 1.1 | free use with citation (NLM) | free use with attribution | competition rules | MIT; for commercial use ask us
for research and commercial use | non-NC | all rights reserved | proprietary | open source | None | zero | 4.0 | ; ( )
no commercial restrictions | commercial use is not restricted | MIT? | Apache-2.0 (?)
weights a: not stated | weights a: MIT; images of b: free use (NLM)
"""
FORBIDDING = (
    "NC", "non-commercial", "CC-BY-NC-4.0", "cc_by_nc_nd", "research only", "not for commercial use", "MSRLA",
    "Attribution-NonCommercial-ShareAlike 4.0", "CC BY ND", "Apple AMLR",
)  # fmt: skip
PERMITTING = [text.strip() for line in YES.strip().splitlines() for text in line.split(" | ")]


def table() -> list[tuple[str, str]]:
    found = [("", "unclear")]
    for answer, texts in (("yes", YES), ("no", NO), ("unclear", UNCLEAR)):
        found += [(text.strip(), answer) for line in texts.strip().splitlines() for text in line.split(" | ")]
    return found


@pytest.mark.parametrize(("text", "answer"), table())
def test_a_licence_is_read_by_grammar(text: str, answer: str) -> None:
    assert commercial(text) == answer


def test_every_licence_that_timm_names_is_read_and_those_of_research_forbid_commercial_use() -> None:
    configs = map(timm.get_pretrained_cfg, timm.list_pretrained())
    names = {config.license for config in configs if config.license}
    read = {name: commercial(name) for name in names}
    assert {name for name in names if name == "mit" or name.startswith(("apache", "bsd"))} <= {
        name for name, answer in read.items() if answer == "yes"
    }
    assert all(read[name] == "no" for name in names if "-nc" in name or "noncommercial" in name or "amlr" in name)
    assert {read[name] for name in names & {"other", "unknown", "gemma", "dinov3-license"}} == {"unclear"}


@given(st.one_of(st.text(max_size=40), st.sampled_from(PERMITTING)), st.sampled_from(FORBIDDING), st.booleans(),
       st.sampled_from(["; ", " ", ", ", " (", "\n"]))  # fmt: skip
def test_words_that_forbid_never_leave_a_yes(text: str, words: str, before: bool, between: str) -> None:
    assert commercial(words + between + text if before else text + between + words) != "yes"


@given(st.text(max_size=60))
def test_a_yes_needs_the_name_of_a_licence_and_any_text_has_an_answer(text: str) -> None:
    if commercial(text) == "yes":
        assert any(name in text.casefold() for name in ("mit", "isc", "cc", "by", "bsd", "gpl", "none", "zero", "odbl"))


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("MIT", (True, False, False)),
        ("CC0", (False, False, False)),
        ("none", (False, False, False)),
        ("CC BY-SA 4.0", (True, True, False)),
        ("cc-by-nc-nd-4.0", (True, False, True)),
        ("Attribution-NoDerivatives 4.0 International", (True, False, True)),
        ("AGPL-3.0", (False, True, False)),
        ("weights a: MIT; images of b: CC BY-SA 4.0", (True, True, False)),
    ],
)
def test_terms_say_what_whoever_passes_it_on_must_do(text: str, asked: tuple[bool, bool, bool]) -> None:
    found = terms(text)
    assert (found.attribution, found.share_alike, found.no_derivatives) == asked


CHAIN = ("weights a: MIT (README; no LICENSE file)", "images of x: not stated", "images of y: CC-BY-NC-4.0", "CC0")


def test_the_strictest_of_a_chain_counts_wherever_it_stands() -> None:
    for chain in (CHAIN, CHAIN[::-1]):
        found = strictest(chain)
        assert (found.part, found.terms.commercial) == ("images of y: CC-BY-NC-4.0", "no")
    assert strictest(CHAIN[:2]).part == CHAIN[1]
    assert strictest(("weights a: CC BY 4.0", "images of b: CC BY-SA 4.0")).part == "images of b: CC BY-SA 4.0"
    assert strictest(("weights a: CC-BY-NC-4.0", "images of b: CC-BY-ND-4.0")).part == "images of b: CC-BY-ND-4.0"


def test_a_chain_that_was_joined_comes_apart_into_the_same_parts() -> None:
    assert split(joined(CHAIN[:3])) == CHAIN[:3]
    assert commercial(joined(CHAIN[:3])) == "no"
    assert parts("registry:m/1", joined(CHAIN[:3])) == CHAIN[:3]
    assert parts("a", "MIT; weights not stated") == ("weights a: MIT; weights not stated",)


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (CHAIN, "is CC-BY-NC-4.0 (of the images of y): it forbids commercial use"),
        (CHAIN[:2], "is not stated (of the images of x): whether it permits commercial use is unclear"),
        (("weights file:/a b/c.pth: MIT",), "is MIT (of the weights file:/a b/c.pth): it permits commercial use"),
        (("weights a: MIT", "images of b: CC BY-SA 4.0"), "name the authors of all that it is made of, and keep it"),
        (("weights a: CC BY-ND 4.0",), "It may not be passed on: a licence of its chain permits no derivatives."),
    ],
)  # fmt: skip
def test_a_sentence_says_which_licence_is_the_strictest_and_what_that_means(chain: tuple[str, ...], words: str) -> None:
    assert words in sentence(chain)
