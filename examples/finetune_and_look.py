"""Fine-tunes inits on one task and looks at the scores: `python examples/finetune_and_look.py drive random imagenet`.

Run it in the repository's top folder. What is finished is not trained again.
"""

from __future__ import annotations

import sys

import pandas as pd

import medtransfer as mt


def look(task: str, inits: list[str], seed: int = 0) -> pd.DataFrame:
    """Returns one row per init: scores, cost, and the epoch with the best loss on val."""
    rows = []
    for init in inits:
        result = mt.finetune(init, task, seed)
        val_losses = [epoch["val_loss"] for epoch in result.history]
        rows.append(
            {
                "init": result.init,
                f"test {result.metric}": result.score,
                f"val {result.metric}": result.val_score,
                "epochs": len(val_losses),
                "lowest val loss at": val_losses.index(min(val_losses)),
                "seconds": result.cost["seconds"],
                "marks": ", ".join(result.marks),
                "folder": f"data/runs/{result.digest}",
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(look(sys.argv[1], sys.argv[2:]).to_string(index=False))
