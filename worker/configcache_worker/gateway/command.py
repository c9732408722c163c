"""
From a request's properties and its caller to a command.

The rules of names are the contract's own. Here stands what is the request's: that it has three properties, and that the
associate is whoever calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from configcache.command import ClearConfigurationCache
from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.errors import NO_RIGHT, Unserved, bad_request, named

PROPERTIES: Final = ("Application", "Instance", "ForAllAssociates")


def to_command(properties: Mapping[str, Any], associate: Associate) -> ClearConfigurationCache:
    """
    What *associate* asks for with *properties*.

    Raises:
        Unserved: 400, a property is missing, wrong or unknown; 403, the associate may not.
    """
    for name in properties:
        if name not in PROPERTIES:
            raise _unknown(name)
    for_all = properties.get("ForAllAssociates") is True
    whose = {} if for_all else {"AssociateId": associate.id}
    try:
        command = ClearConfigurationCache.model_validate(
            {**properties, **whose}, by_alias=True, by_name=False
        )
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise bad_request("; ".join(problem["msg"].rstrip(".") for problem in problems)) from None
    if for_all and not associate.may_clear_all:
        raise Unserved(
            403,
            NO_RIGHT,
            "ForAllAssociates is true, and the caller may clear the configuration of no one else",
        )
    return command


def _unknown(name: str) -> Unserved:
    if name == "AssociateId":
        return bad_request("AssociateId is no property of a request: the associate is the one who calls")
    return bad_request(
        f"unknown {named(name)}: there are {', '.join(PROPERTIES)}, in exactly this case, and no other"
    )
