"""The only reader of the command line. Imports nothing heavy before the verb is known.

Every option that is no identity argument of a verb is a dotted parameter: `--classification.lr 3e-4`.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from medtransfer import params as parameters
from medtransfer.cli import VERBS, packs, preflight
from medtransfer.cli.compare_others import compare_given
from medtransfer.cli.verb import SEVERAL
from medtransfer.core import arithmetic, extras
from medtransfer.core.addresses import Scrubbed, hide, holds_secret, scrub
from medtransfer.core.errors import UserError

log = logging.getLogger("medtransfer")

SECRETS = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip
"""variables of the environment that nothing may print"""


def build_parser(completing: bool = False) -> argparse.ArgumentParser:
    """Builds the command line from the verbs' signatures and docstrings.

    Args:
        completing: every parameter of `params.yaml` becomes an option, for the shell to complete.
    """
    parser = argparse.ArgumentParser(
        prog="medtransfer",
        description="Which pre-trained weights should a medical imaging model start from?",
        epilog="Every parameter of params.yaml is an option too, by its dotted name: --classification.lr 3e-4. "
        'Completion by the shell: eval "$(register-python-argcomplete medtransfer)", also with --shell fish.',
    )
    parser.add_argument("--version", action="version", version=f"medtransfer {metadata.version('medtransfer')}")
    parser.add_argument("--verbose", action="store_true", help="log details and tracebacks")
    commands = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, entry in VERBS.items():
        command = commands.add_parser(name, help=entry.summary, description=entry.summary, allow_abbrev=False)
        command.add_argument("--params", default="params.yaml", help="parameter file (default: params.yaml)")
        command.add_argument("--partial", action="store_true", help="short for --data.partial true")
        command.add_argument("--skip-bad", metavar="N", help="short for --data.skip_bad N: samples that may be bad")
        for option, default in entry.identity.items():
            words = f"{entry.help_of(option)} ({f'default: {default}' if default is not None else 'required'})"
            if option in ("check", "race", "open", "serve"):  # also without a value
                command.add_argument(f"--{option}", nargs="?", const="yes", default=default, help=words)
            else:
                names = dict.fromkeys((f"--{option.replace('_', '-')}", f"--{option}"))  # MLflow's -P takes no hyphen
                argument: Any = command.add_argument(*names, dest=option, default=default, help=words)
                argument.completer = functools.partial(_candidates, option)
        if "dry" in entry.identity:
            command.add_argument(
                "--dry-run", dest="dry", action="store_const", const="yes", default=argparse.SUPPRESS,
                help="short for --dry yes",
            )  # fmt: skip
        for dotted in parameters.dotted_names() if completing else ():
            command.add_argument(f"--{dotted}", help=argparse.SUPPRESS)
    return parser


def _candidates(option: str, **_: object) -> list[str]:
    """Lists what the shell may complete for an identity argument."""
    if option == "init":
        from medtransfer.weights.zoo import RECORDS

        return ["all", *RECORDS]
    if option in ("modality", "family", "commercial"):
        from medtransfer.cli import list_inits

        return ["all", *list_inits.WORDS[option]]
    if option in ("task", "dataset"):
        from medtransfer.data import catalog

        return ["all", *catalog.names(Path.cwd())]
    return []


def read_overrides(rest: Sequence[str], verb_name: str) -> dict[str, str]:
    """Reads `--dotted.name value` and `--dotted.name=value` pairs.

    Raises:
        UserError: something else stands there; a misspelt identity argument is named.
    """
    overrides: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            raise UserError(f"unknown option {word} of {verb_name}; {_instead(name, verb_name)}")
        if not equals:
            if not words:
                raise UserError(f"option {word} needs a value")
            value = words.pop(0)
        overrides[name] = value
    return overrides


def _instead(name: str, verb_name: str) -> str:
    """Says what an unknown option may have meant: a parameter by its last part, else the nearest option."""
    last = name.replace("-", "_")
    dotted = [each for each in parameters.dotted_names() if each.rpartition(".")[2] == last]
    if dotted:
        read = [each for each in dotted if each.partition(".")[0] in VERBS[verb_name].sections]
        return f"a parameter is set by its whole name: {' or '.join(f'--{each}' for each in read or dotted)}"
    valid = [*VERBS[verb_name].identity, "params", "partial", "skip-bad"]
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"the nearest option is --{near[0]}" if near else f"options: {', '.join(f'--{v}' for v in valid)}"
    return f"{hint}, or a dotted parameter"


def check_verb(arguments: Sequence[str]) -> None:
    """Refuses a first word that is no verb.

    Raises:
        UserError: with the nearest verbs.
    """
    word = next((word for word in arguments if not word.startswith("-")), None)
    if word is None or word in VERBS:
        return
    near = difflib.get_close_matches(word, VERBS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"verbs: {', '.join(VERBS)}"
    raise UserError(f"unknown verb {word}; {hint} `medtransfer --help` says what each does")


def name_first(arguments: Sequence[str]) -> list[str]:
    """Lets the word behind a verb stand for the verb's first identity argument: `fetch pneumoniamnist`.

    Where that takes several, all words up to the next option do: `merge a.pack b.pack --out all.pack`.

    Raises:
        UserError: that argument is given by its name, too.
    """
    words = list(arguments)
    place = next((number for number, word in enumerate(words) if word in VERBS), None)
    if place is None or place + 1 >= len(words) or words[place + 1].startswith("-"):
        return words
    option = next((f"--{name}" for name in VERBS[words[place]].identity), "")
    if not option:
        return words
    if any(word.partition("=")[0] == option for word in words):
        raise UserError(
            f"{words[place]} {words[place + 1]} means {option} {words[place + 1]}, but {option} stands there too"
        )
    end = place + 2
    while option.removeprefix("--") in SEVERAL and end < len(words) and not words[end].startswith("-"):
        end += 1
    return [*words[: place + 1], option, ",".join(words[place + 1 : end]), *words[end:]]


def run(arguments: Sequence[str], root: Path) -> None:
    """Reads a command line and does its verb.

    Raises:
        UserError: whatever the user can mend.
    """
    check_verb(arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(name_first(arguments))
    if options.verb is None:
        parser.print_help()
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # which tables it makes is nobody's news
    entry = VERBS[options.verb]
    if entry.extra:
        extras.need(entry.extra, options.verb)
    overrides = read_overrides(rest, options.verb)
    if options.partial:
        overrides["data.partial"] = "true"
    if options.skip_bad is not None:
        overrides["data.skip_bad"] = options.skip_bad
    identity = {name: getattr(options, name) for name in entry.identity}
    absent = [name for name, value in identity.items() if value is None]
    if absent:
        raise UserError(f"{options.verb} needs --{absent[0]}: which {absent[0]}?")
    if not entry.study:
        entry.function(root, **identity)
        return
    from medtransfer.data import catalog
    from medtransfer.weights.names import hidden, hide_all

    if os.environ.get("MLFLOW_RUN_ID") and any(map(holds_secret, (*identity.values(), *overrides.values()))):
        raise UserError(
            "`mlflow run` has written the address with its password or token into this run's parameters before this "
            "program was reached: delete that run and withdraw the secret; `python -m medtransfer` takes such an "
            "address and keeps it to itself"
        )
    identity = {name: hidden(value) for name, value in identity.items()}
    if options.verb == "compare" and identity["pack"]:
        packs.compare_pack(root, identity)
        return
    if options.verb == "compare" and (identity["csv"] or identity["experiment"]):
        compare_given(root, identity)  # of scores of other code, which need no study
        return
    params = parameters.load(root / options.params, overrides, catalog.sizes(root))
    params = hide_all(params)
    parameters.refuse_shadowed(params, overrides, identity.get("task"))
    arithmetic.check_environment(params.engine.portable)
    if "inits" in entry.sections:
        given = [name for option in ("init", "reference") if (name := identity.get(option, ""))]
        candidates = params.recommend.candidates if "recommend" in entry.sections else ()
        try:
            params = describe_named(params, (*given, *candidates), root)
        except UserError as error:
            if options.verb != "inits" or given:
                raise
            log.warning("%s", error)  # a list is of the others, too
    preflight.check(options.verb, params, root, identity)
    entry.function(params, root, **identity)


def describe_named(params: parameters.Params, given: Sequence[str], root: Path) -> parameters.Params:
    """Describes what the command line or the parameters name of the model registry, or of a model hub."""
    from medtransfer.weights import hub

    names = [*given, params.comparison.reference, *params.benchmark.inits, *params.tuning.inits]
    registered = [name for name in names if name.startswith("registry:")]
    if registered:
        extras.need("train", "a name of the model registry")
        from medtransfer.registry import fetch

        params = fetch.bring(params, registered, root)
    return hub.bring(params, names, root)


def main() -> None:
    """Does what the command line says; what the user can mend is said in one message, without a traceback."""
    root = Path.cwd()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(build_parser(completing=True))
    hide(*(os.environ.get(name, "") for name in SECRETS))
    sys.stdout, sys.stderr = Scrubbed(sys.stdout), Scrubbed(sys.stderr)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        run(sys.argv[1:], root)
    except arithmetic.UnpinnedError:
        arithmetic.restart()
    except UserError as error:
        sys.stderr.write(f"medtransfer: {error}\n")
        if os.environ.get("MLFLOW_RUN_ID"):
            from medtransfer.tracking.launcher import Launcher

            Launcher(root).fail(f"{' '.join(sys.argv[1:2])}: refused", scrub(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("medtransfer: stopped; the same command goes on from there\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
