# syntax=docker/dockerfile:1
# All services of HistGen, and its command line: one small image for processors. deploy/images/build.sh builds it.
#   docker run … histgen python -P -m services.tiler
# It runs as 65532:65532 on a read-only root. Mount something writable at /tmp, /scratch and /var/lib/histgen.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Required: sha256:… of that image. build.sh resolves it; without it there is no build.
ARG PYTHON_DIGEST

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all: PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt ./
# The wheel's own tools, and what lists the environment, stay out of the image.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /tools \
 && /tools/bin/python -m pip install cyclonedx-bom setuptools
COPY pyproject.toml README.md LICENSE ./
COPY histgen_lib histgen_lib
COPY services services
RUN /tools/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .
# Every version is that of constraints.txt; a test says that none is missing there.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/histgen \
 && for wheel in /wheel/*.whl; do python -m pip --python /opt/histgen/bin/python install "${wheel}[oidc,tracing]"; done \
 && mkdir -p /empty /sbom \
 && /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
      -o /sbom/histgen.cdx.json /opt/histgen/bin/python

# What is in the image, to be taken out without running it: docker buildx build --target sbom --output …
FROM scratch AS sbom
COPY --from=build /sbom/ /

FROM ${PYTHON_IMAGE}@${PYTHON_DIGEST} AS image
ARG PYTHON_IMAGE
ARG PYTHON_DIGEST
ARG HISTGEN_VERSION=unknown
ARG HISTGEN_REVISION=unknown
LABEL org.opencontainers.image.title="histgen" \
      org.opencontainers.image.description="Drafts pathology reports as slides are scanned: all services" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${HISTGEN_VERSION}" \
      org.opencontainers.image.revision="${HISTGEN_REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      org.opencontainers.image.base.digest="${PYTHON_DIGEST}"
COPY --from=build /opt/histgen /opt/histgen
COPY --from=build /sbom /usr/share/histgen
COPY deploy/images/health.py /opt/histgen/health.py
# A new volume that is mounted at one of these takes over its owner.
COPY --from=build --chown=65532:65532 /empty /scratch
COPY --from=build --chown=65532:65532 /empty /var/lib/histgen
ENV PATH=/opt/histgen/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HISTGEN_REVISION=${HISTGEN_REVISION} \
    HISTGEN_HOME=/var/lib/histgen \
    HISTGEN_SCRATCH=/scratch \
    HISTGEN_HOST=0.0.0.0 \
    HISTGEN_PORT=8080
WORKDIR /var/lib/histgen
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=4 \
    CMD ["python", "-P", "/opt/histgen/health.py"]
CMD ["python", "-P", "-m", "services.gateway"]
