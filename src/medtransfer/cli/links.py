"""The verb check-links."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from medtransfer.cli.verb import verb
from medtransfer.core.errors import UserError
from medtransfer.params import Params


@verb(extra="train")
def check_links(params: Params, root: Path) -> None:
    """Ask whether the addresses of the built-in weights still answer; ends with status 1 where one is gone."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from medtransfer.weights import links
    from medtransfer.weights.zoo import RECORDS

    found = links.check(links.addresses(RECORDS))
    table = Table(title="Addresses of published weights")
    table.add_column("address, and the inits that it is of", overflow="fold")
    for state in get_args(links.State):
        of_state = [link for link in found if link.state == state]
        if of_state:
            table.add_row(Text(f"{state} ({len(of_state)})", style="bold"))
        for number, link in enumerate(of_state, 1):
            why = f" ({link.why})" if link.why else ""
            words = Text(f"{link.address}{why}\n  {', '.join(link.inits)}")
            table.add_row(words, end_section=number == len(of_state))
    Console().print(table)
    asked = [link for link in found if link.state != "by hand"]
    if asked and all(link.state == "unreachable" for link in asked):
        raise UserError(f"none of {len(asked)} addresses answered: is there a network?")
    if gone := links.lost(found):
        names = sorted({init for link in gone for init in link.inits})
        raise UserError(
            f"{len(gone)} of {len(asked)} addresses are gone, of {', '.join(names)}: find where their publisher has "
            "them now, or take them out of weights/zoo.py"
        )
