"""What an operator sees of a running worker: log lines, and whether it is alive and ready."""
