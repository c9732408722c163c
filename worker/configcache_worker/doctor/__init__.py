"""
Examine whether a worker could work as things are set up, and say what would mend it. Changes nothing.

Each check gives findings, which are values: what was looked at, whether it is as it must be, in which words, and the
command that mends it. Broker and database are examined independently; what can't be found out is told, not left out.
"""

from configcache_worker.doctor.examination import CHECKS, examine
from configcache_worker.doctor.findings import Finding, State

__all__ = ["CHECKS", "Finding", "State", "examine"]
