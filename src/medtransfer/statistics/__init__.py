"""Arrays in, numbers out: metrics, tests, intervals. No names of initializations, no files."""
