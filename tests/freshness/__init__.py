"""
Nothing that was built before a clear is served after it, shown three ways.

:mod:`.model` searches every order in which a few readers, writers and workers can take their steps. :mod:`.stress` races
real ones on real servers, with workers killed now and then. :mod:`.mutations` breaks the protocol, each rule in turn, and
both must notice.
"""
