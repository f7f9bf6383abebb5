# enova with the docker client and Compose, for the reconciler and for use without a Python of
# one's own: `make image`. Compose and Kubernetes set the user; alone it is nobody.
FROM python:3.11-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --wheel-dir /wheels /src

FROM docker:28-cli AS docker

FROM python:3.11-slim
COPY --from=docker /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker /usr/local/libexec/docker/cli-plugins/docker-compose \
    /usr/local/lib/docker/cli-plugins/docker-compose
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels enova
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
ENTRYPOINT ["enova"]
