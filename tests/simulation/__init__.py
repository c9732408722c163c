"""
The real worker between a simulated broker and a simulated table, under a seed that owns time, order and faults.

What is real: everything of ``core/``, the worker of ``app.py`` with its drain, and the supervisor. What is simulated: the
three ports, the clock of the event loop, and the process (it can be killed at any await). One seed is one schedule, the
same every time. :mod:`.run` runs one and checks it; ``make simulate`` runs many, ``make mutants`` shows that the checks
find what they are there for.
"""
