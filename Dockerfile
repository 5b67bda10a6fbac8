# Two stages: the first has pip and builds, the second has Python and the installed program alone.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/marketd
COPY pyproject.toml README.md LICENSE ./
COPY actors actors
COPY daemon daemon
COPY web web
# What one machine alone never imports; `--build-arg EXTRAS=` leaves it out, `EXTRAS=engine,kafka,arrow` adds Parquet.
ARG EXTRAS=engine,kafka
RUN /opt/marketd/bin/pip install --no-cache-dir ".[$EXTRAS]"

FROM python:3.13-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin marketd \
  && install --directory --owner=marketd /var/lib/marketd
COPY --from=build /opt/marketd /opt/marketd
WORKDIR /etc/marketd
COPY config.toml .
USER marketd
# The archive and the keys (`docker exec ... marketd key new`) outlive the container where this is a volume.
ENV MARKETD_ARCHIVE__PATH=/var/lib/marketd/marketd.db MARKETD_AUTH__KEYS_FILE=/var/lib/marketd/keys.toml
VOLUME /var/lib/marketd
# PORT makes the daemon listen on every address; a platform may set another one.
ENV PATH=/opt/marketd/bin:$PATH PYTHONUNBUFFERED=1 PORT=8000
EXPOSE 8000
# The slim image has no curl; Python asks the program itself.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/health/live\", timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["marketd"]
