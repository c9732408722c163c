"""
The HTTP gateway: for clients that know only the classic HTTP call, a producer like any other.

It authenticates the caller, reads the body, publishes the command, and says 204 once the broker has it. It never touches
the cache table.
"""
