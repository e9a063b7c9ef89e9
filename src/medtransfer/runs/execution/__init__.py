"""Where runs are executed: in this process, in a pool of processes, or on a Ray cluster."""
