"""
Look at a whole system at this moment: is what is published cleared, how much waits, what could not be cleared, and why.

Broker and database are asked side by side, each within bounded time. What was seen are values (``sights``); what follows
from them is decided without servers (``judgement``) and shown on a screen or as JSON. Nothing is changed.
"""

from configcache_worker.status.judgement import Part, Report, Thresholds, Verdict, judged
from configcache_worker.status.look import Looker

__all__ = ["Looker", "Part", "Report", "Thresholds", "Verdict", "judged"]
