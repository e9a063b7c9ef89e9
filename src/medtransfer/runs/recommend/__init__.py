"""Which weights one task should start from: candidates, cheap scores, and a race of fine-tunings within a time."""
