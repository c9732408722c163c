# The program `configcache` and its locked dependencies, nothing else. The layers come in the order of how rarely they
# change: dependencies, then the program.

FROM python:3.13-slim-trixie AS base

FROM base AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/configcache
WORKDIR /build
COPY requirements/runtime.txt requirements/
# The bytecode is compiled without dates: a second build gives the same files, byte for byte.
RUN pip --python /opt/configcache/bin/python install --no-compile \
        --require-hashes --only-binary :all: --requirement requirements/runtime.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/configcache/lib

FROM dependencies AS program
COPY requirements/build.txt requirements/
RUN python -m venv --without-pip tools \
    && pip --python tools/bin/python install \
        --require-hashes --only-binary :all: --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY worker worker
# Into a folder of its own, as if that were /: the final image gets it as a small layer above the dependencies.
RUN pip --python tools/bin/python wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/configcache/bin/python install --no-compile --no-deps --root /program dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash -s /program -p / /program

FROM base
LABEL org.opencontainers.image.title="clear-configuration-cache" \
      org.opencontainers.image.description="RabbitMQ commands in, PostgreSQL rows out" \
      org.opencontainers.image.licenses="MIT"
COPY --from=dependencies /opt/configcache /opt/configcache
COPY --from=program /program /
COPY deploy/probe.py /opt/configcache/
# A container's loopback is its own, and probes and requests come from outside.
ENV PATH=/opt/configcache/bin:$PATH CONFIGCACHE_TELEMETRY__HOST=0.0.0.0 CONFIGCACHE_GATEWAY__HOST=0.0.0.0
# Where a configcache.toml is found if one is mounted.
WORKDIR /etc/configcache
# A number, since Kubernetes can tell only of a number that it is not root. There is no account behind it, and need not be.
USER 10001:10001
# The gateway's call; the probes of a worker, a gateway and a relay.
EXPOSE 8080 9464 9465 9466
# Not /readyz: orchestrators replace what is unhealthy, which would not help a worker that waits for its database.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "/opt/configcache/probe.py", "/livez"]
# The program drains at either signal. But process 1 ignores a SIGTERM that it has no handler for: one that comes while it
# starts, or while a verb runs that ends by itself, would be lost. For SIGINT Python has a handler from the first moment.
STOPSIGNAL SIGINT
ENTRYPOINT ["configcache"]
CMD ["worker"]
