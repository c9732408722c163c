"""
The sections: what each setting means, its default and its limits.

The descriptions are the documentation: the settings table is generated from them. Frozen values; nothing here reads
anything, :mod:`~configcache_worker.settings.sources` does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from configcache.switch import CacheOverride, check_overrides, read_overrides
from configcache_worker.settings.urls import check_broker_url, check_database_url

_MAX_IDENTIFIER_BYTES: Final = 63
"""PostgreSQL silently cuts longer names (NAMEDATALEN)."""


def _broker_url(value: str) -> str:
    check_broker_url(value)
    return value


def _database_url(value: str) -> str:
    check_database_url(value)
    return value


def _identifier(value: str) -> str:
    if "\0" in value or len(value.encode()) > _MAX_IDENTIFIER_BYTES:
        raise ValueError(
            f"must be a PostgreSQL name of at most {_MAX_IDENTIFIER_BYTES} bytes, written without quotes"
        )
    return value


def _root_path(value: str) -> str:
    if value and (not value.startswith("/") or value.endswith("/")):
        raise ValueError("must begin with a slash and not end with one, such as /crm, or be empty")
    return value


def _proxies(value: str) -> str:
    for name in filter(None, (part.strip() for part in value.split(","))):
        try:
            ipaddress.ip_network(name)
        except ValueError:
            if value.strip() != "*":
                raise ValueError(
                    "must be IP addresses or networks, separated by commas, such as 10.0.0.0/8, or * alone"
                ) from None
    return value


def _key_set(value: str) -> str:
    if "://" in value and not re.match(r"https://\w|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", value):
        raise ValueError(
            "must be a file, or a URL that begins with https:// (or http://, on this host alone)"
        )
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _switch(value: object) -> object:
    word = str(value).lower() if isinstance(value, bool) else _lower(value)
    return {"true": "on", "false": "off"}.get(word, word) if isinstance(word, str) else word


def _overrides(value: object) -> object:
    return read_overrides(value) if isinstance(value, str) else value


SECRET: Final[dict[str, Any]] = {"secret": True}
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
OptionalIdentifier = Annotated[str, AfterValidator(_identifier)]
Identifier = Annotated[str, Field(min_length=1), AfterValidator(_identifier)]


class Section(BaseModel):
    """What all sections have in common. Built directly, a section takes its values from the call and nowhere else."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_by_name=True, validate_by_alias=True
    )


class BrokerSettings(Section):
    """RabbitMQ."""

    url: Annotated[str, AfterValidator(_broker_url)] = Field(
        description="Where RabbitMQ is and as whom to connect: amqp://user:password@host:5672/vhost, or amqps://. "
        "A cluster's hosts are separated by commas and tried in random order.",
        repr=False,
        json_schema_extra=SECRET,
    )
    declare: bool = Field(
        True,
        description="Whether a worker creates missing exchanges and queues at its start. "
        "When false it waits until `configcache topology` has.",
    )
    heartbeat_s: int = Field(
        10,
        ge=1,
        le=60,
        description="Heartbeat, in seconds. A broker that stopped answering is noticed after about three of them. "
        "A relay's is always 10.",
    )
    connect_timeout_s: Seconds = Field(
        10,
        description="Longest time to open a connection, in seconds. A relay's is `relay.publish_timeout_s`.",
    )


class DatabaseSettings(Section):
    """PostgreSQL: how to reach it, and the time limits the server itself keeps."""

    url: Annotated[str, AfterValidator(_database_url)] = Field(
        description="Where PostgreSQL is and as whom to connect: postgresql://user:password@host:5432/database.",
        repr=False,
        json_schema_extra=SECRET,
    )
    connect_timeout_s: Seconds = Field(10, description="Longest time to open a connection, in seconds.")
    lock_timeout_s: Seconds = Field(
        5, description="Longest wait for a row somebody else has locked, in seconds (lock_timeout)."
    )
    statement_timeout_s: Seconds = Field(
        30,
        description="Longest time for one statement, in seconds (statement_timeout). A slower one is done in parts.",
    )
    idle_in_transaction_timeout_s: Seconds = Field(
        60,
        description="The server ends a connection that idles inside a transaction for so many seconds "
        "(idle_in_transaction_session_timeout).",
    )
    statement_cache: bool = Field(
        True, description="Keep statements prepared. Set to false behind PgBouncer in transaction mode."
    )


class CacheColumns(Section):
    """The names of the key columns."""

    application: Identifier = Field("application", description="Column of the application's name.")
    instance: Identifier = Field("instance", description="Column of the instance's name.")
    associate: Identifier = Field("associate_id", description="Column of the associate's id.")
    item: OptionalIdentifier = Field(
        "item", description="Column of the item's name. Empty when the table has no such column."
    )

    @model_validator(mode="after")
    def _all_different(self) -> Self:
        names = [name for name in (self.application, self.instance, self.associate, self.item) if name]
        if len(set(names)) < len(names):
            raise ValueError("must be different columns: " + ", ".join(names))
        return self


class CacheSettings(Section):
    """The table that holds the cached rows: the one `configcache migrate` creates, or your own."""

    # Not `schema`: pydantic's models have a method of that name.
    schema_: Identifier = Field("public", alias="schema", description="Schema of the table.")
    table: Identifier = Field("configuration_cache", description="Name of the table.")
    columns: CacheColumns = Field(default_factory=CacheColumns, description="Names of its key columns.")
    enabled: bool = Field(
        True,
        description="Whether readers cache what they build. When false they build every time and store nothing; "
        "commands are consumed and clear all the same.",
    )
    overrides: Annotated[
        tuple[CacheOverride, ...], BeforeValidator(_overrides), AfterValidator(check_overrides)
    ] = Field(
        (),
        description="Other values of `cache.enabled`: for an `application`, or for an `instance` of it. "
        "The most specific counts. In a variable: a JSON list.",
    )


class WorkerSettings(Section):
    """How much the worker holds, and how long it tries."""

    prefetch: int = Field(
        5_000, ge=1, le=65_535, description="Most commands the broker hands over before it has an answer."
    )
    batch: int = Field(1_000, ge=1, description="Most commands cleared together. At most `worker.prefetch`.")
    chunk_rows: int = Field(5_000, ge=100, description="Most rows deleted in one transaction.")
    max_held_bytes: int = Field(
        33_554_432,
        # Half of it is for what comes in the few reads after reading should have stopped, a message of 1 MiB in each.
        ge=16_777_216,
        description="Most bytes of malformed messages held while they can't be dead-lettered. "
        "Reading stops at half of it; if none can be then, the worker takes nothing until one could be.",
    )
    drain_timeout_s: Seconds = Field(
        20,
        description="Longest time to finish at a stop what was received, in seconds. Whoever stops the worker "
        "should wait a little longer before killing it.",
    )
    first_retry_s: Seconds = Field(
        0.05,
        description="Longest wait before the first retry, in seconds; it doubles with each. Waits are random.",
    )
    longest_retry_s: Seconds = Field(10, description="Longest wait between two attempts, in seconds.")

    publish_events: bool = Field(
        False,
        description="Whether to publish what was cleared, for services that keep copies in their memory: "
        "`ConfigurationCacheCleared` on the exchange `configuration.events`.",
    )

    # The default is not checked: a batch takes what has arrived, so a smaller prefetch alone already bounds it.
    @field_validator("batch")
    @classmethod
    def _within_prefetch(cls, batch: int, info: ValidationInfo) -> int:
        prefetch = info.data.get("prefetch", batch)
        if batch > prefetch:
            raise ValueError(f"must be at most worker.prefetch, which is {prefetch}, not {batch}")
        return batch

    @field_validator("longest_retry_s")
    @classmethod
    def _not_below_first(cls, longest_s: float, info: ValidationInfo) -> float:
        first_s = info.data.get("first_retry_s", longest_s)
        if longest_s < first_s:
            raise ValueError(
                f"must be at least worker.first_retry_s, which is {first_s:g}, not {longest_s:g}"
            )
        return longest_s


class RelaySettings(Section):
    """How `configcache relay` empties the outbox."""

    batch: int = Field(500, ge=1, le=10_000, description="Most rows published in one transaction.")
    publish_timeout_s: Seconds = Field(
        5,
        description="Longest wait for the broker's confirms, in seconds. So long is a transaction held at most.",
    )
    poll_interval_s: Seconds = Field(
        5, description="How often to look without having been notified, in seconds."
    )
    longest_retry_s: Seconds = Field(10, description="Longest wait between two attempts, in seconds.")


Installation = Literal["onsite", "online"]
CallerScheme = Literal["bearer", "basic", "ticket", "session"]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]

_SCHEMES: Final[Mapping[Installation, tuple[CallerScheme, ...]]] = {
    "onsite": ("basic", "ticket", "session"),
    "online": ("bearer", "ticket", "session"),
}
"""What is accepted where, unless a switch says otherwise."""


class JwtSettings(Section):
    """How the gateway judges a JWT, and what it takes from it."""

    issuer: str = Field(
        "", description="The `iss` that a token must have, to the letter. Needed with Bearer."
    )
    audience: str = Field(
        "", description="What must be in a token's `aud`: the name of this gateway. Needed with Bearer."
    )
    jwks: Annotated[str, AfterValidator(_key_set)] = Field(
        "",
        description="The issuer's public keys, a JSON Web Key Set: a file, or a URL that begins with https://. "
        "Needed with Bearer.",
    )
    leeway_s: float = Field(
        30,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="How far the issuer's clock may be from this one, in seconds.",
    )
    associate_claim: str = Field(
        "associate_id",
        min_length=1,
        description="The claim that is the associate's id: a number, or its digits. "
        "A dot leads into a claim that is an object, unless there is one of the whole name.",
    )
    right_claim: str = Field(
        "may_clear_all",
        min_length=1,
        description="The claim that tells whether the associate may clear for all.",
    )
    right_value: str = Field(
        "",
        description="What must be in it: one of a list, or one of the words of a text. Empty: it must be true.",
    )


class GatewaySettings(Section):
    """How `configcache gateway` serves HTTP, and to whom."""

    installation: Annotated[Installation, BeforeValidator(_lower)] = Field(
        "onsite",
        description="Who calls. onsite: Basic, SoTicket and sessions; online: Bearer, SoTicket with SO-AppToken, and sessions.",
    )
    bearer: Switch = Field("auto", description="Whether Bearer is accepted. auto: online.")
    basic: Switch = Field("auto", description="Whether Basic is accepted. auto: onsite. Never on online.")
    ticket: Switch = Field("auto", description="Whether SoTicket is accepted. auto: it is.")
    session: Switch = Field("auto", description="Whether sessions are accepted. auto: they are.")
    session_cookie: str = Field(
        "ASP.NET_SessionId",
        min_length=1,
        description="The cookie that holds a session's id. Its XSRF token is in the cookie XSRF-TOKEN.",
    )
    jwt: JwtSettings = Field(default_factory=JwtSettings)
    credential_ttl_s: float = Field(
        60,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="How long a password, ticket or session that was verified is not looked up again, in seconds. "
        "So long it works after it was revoked. 0: each request is looked up.",
    )
    attempts: int = Field(
        5,
        ge=1,
        le=1_000,
        description="Wrong attempts on one name from one address before the next must wait: a second, then two, "
        "then four. Refused with 429 meanwhile.",
    )
    attempts_of_client: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="The same from one address, whatever the names; one of them a second is forgotten.",
    )
    longest_wait_s: Seconds = Field(300, description="Longest of these waits, in seconds.")
    host: str = Field("127.0.0.1", min_length=1, description="Address on which the call is served.")
    port: int = Field(
        8080, ge=0, le=65_535, description="Port on which the call is served. 0 takes any free one."
    )
    root_path: Annotated[str, AfterValidator(_root_path)] = Field(
        "",
        description="Prefix of the path that clients see, such as /crm. A proxy may pass it on or take it off.",
    )
    publish_timeout_s: Seconds = Field(
        2,
        description="Longest wait for the broker's confirm, in seconds. After it the answer is 503.",
    )
    receive_timeout_s: Seconds = Field(
        10, description="Longest time for a request's body to arrive, in seconds. After it the answer is 408."
    )
    max_body_bytes: int = Field(
        65_536, ge=256, le=1_048_576, description="Largest body of a request. A call has a few hundred bytes."
    )
    max_head_bytes: int = Field(
        16_384, ge=1_024, le=1_048_576, description="Largest head of a request: its first line and headers."
    )
    max_concurrency: int = Field(
        500, ge=1, le=65_535, description="Most requests served at a time. One more is answered 503."
    )
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3_600,
        description="How long an idle connection is kept, in seconds. "
        "Behind a proxy: longer than the proxy keeps it, so that none is closed under its hands.",
    )
    drain_timeout_s: Seconds = Field(
        15,
        description="Longest time to finish at a stop the requests that have begun, in seconds. "
        "Whoever stops the gateway should wait a little longer before killing it.",
    )
    forwarded_allow_ips: Annotated[str, AfterValidator(_proxies)] = Field(
        "",
        description="Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks, "
        "separated by commas; * for every one. Empty: none is.",
    )
    tls_certificate: str = Field(
        "", description="File of the certificate and its chain, PEM. With it the call is served by HTTPS."
    )
    tls_key: str = Field("", description="File of the certificate's private key, PEM.")

    @model_validator(mode="after")
    def _key_with_certificate(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("must have both tls_certificate and tls_key, or neither")
        return self

    @model_validator(mode="after")
    def _schemes_fit(self) -> Self:
        if self.installation == "online" and self.basic == "on":
            raise ValueError("must not have basic on while installation is online: passwords are for onsite")
        if not any(map(self.accepts, get_args(CallerScheme))):
            raise ValueError("must accept something: bearer, basic, ticket and session are all off")
        missing = [name for name in ("issuer", "audience", "jwks") if not getattr(self.jwt, name)]
        if self.accepts("bearer") and missing:
            names = " and ".join(f"jwt.{name}" for name in missing)
            raise ValueError(
                f"must have {names}, or bearer off: Bearer is accepted, and a JWT is judged by them"
            )
        return self

    def accepts(self, scheme: CallerScheme) -> bool:
        """Whether *scheme* is accepted."""
        switch: str = getattr(self, scheme)
        return scheme in _SCHEMES[self.installation] if switch == "auto" else switch == "on"

    @property
    def needs_database(self) -> bool:
        """Whether callers are looked up: only tokens tell by themselves whose they are."""
        return any(self.accepts(scheme) for scheme in get_args(CallerScheme) if scheme != "bearer")


LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class TelemetrySettings(Section):
    """What worker, relay and gateway tell about themselves."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address on which /livez, /readyz and /metrics are served."
    )
    port: int = Field(
        9464,
        ge=0,
        le=65_535,
        description="Port on which they are served; a relay's is 9466 and a gateway's 9465 unless one is set. 0 turns them off.",
    )
    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = Field(
        "auto", description="How log lines look. auto: console on a terminal, json otherwise."
    )
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = Field(
        "info", description="The least important log lines that are written."
    )

    traces: bool = Field(
        False,
        description="Whether spans are sent, by OTLP over HTTP: needs the extra [telemetry]. Where to, and how many, say "
        "OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER.",
    )

    def port_or(self, usual: int) -> int:
        """The port, or *usual* for a part whose port is another by default."""
        return self.port if "port" in self.model_fields_set else usual


class Settings(BaseSettings):
    """
    All sections. One that its verb does not use is there too, but unvalidated and with its defaults alone.

    Built directly, it takes its values from the call: neither environment nor file is read.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    broker: BrokerSettings
    database: DatabaseSettings
    cache: CacheSettings = Field(default_factory=CacheSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    relay: RelaySettings = Field(default_factory=RelaySettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


SECTIONS: Final[Mapping[str, type[Section]]] = MappingProxyType(
    {
        "broker": BrokerSettings,
        "database": DatabaseSettings,
        "cache": CacheSettings,
        "worker": WorkerSettings,
        "relay": RelaySettings,
        "gateway": GatewaySettings,
        "telemetry": TelemetrySettings,
    }
)
