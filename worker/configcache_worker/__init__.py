"""Everything of the configuration cache that runs: the worker and the tools around it. Producers need none of it."""
