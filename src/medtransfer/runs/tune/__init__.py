"""One Optuna study per initialization and task: search space, trials, outcome, and the verb."""
