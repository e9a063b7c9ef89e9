"""What a finished run, study or network leaves under `data/results`: records, written and read here."""
