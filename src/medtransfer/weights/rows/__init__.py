"""The rows of the table of starting weights, by what they were trained on."""
