"""Users of a virtual host, with the rights of the test's choice."""

import contextlib
import dataclasses
import secrets

from yarl import URL

from configcache.topology import Permissions


@contextlib.contextmanager
def user(rabbitmq, url, permissions):
    """A user of the virtual host at *url*, with these rights and no others: the URL for it. It is gone afterwards."""
    name = f"user-{secrets.token_hex(6)}"
    users_url = str(URL(url).with_user(name).with_password("secret"))
    rabbitmq.add_user(name, "secret")
    try:
        permit(rabbitmq, users_url, permissions)
        yield users_url
    finally:
        rabbitmq.delete_user(name)


def permit(rabbitmq, url, permissions: Permissions):
    """Give the user of *url* these rights in its virtual host, and no others."""
    parts = URL(url)
    rabbitmq.set_permissions(parts.user, parts.path.removeprefix("/"), **dataclasses.asdict(permissions))
