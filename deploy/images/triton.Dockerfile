# syntax=docker/dockerfile:1
# NVIDIA's Triton Inference Server with what HistGen's models run on. deploy/images/build.sh builds it.
#   histgen-prepare-models, then tritonserver --model-repository=/models/repository
# It runs as 65532:65532 on a read-only root. Mount something writable at /tmp, /models and /models/engines.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.02-py3
# Required: sha256:… of that image. build.sh resolves it; without it there is no build.
ARG TRITON_DIGEST

FROM ${TRITON_IMAGE}@${TRITON_DIGEST} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /tools \
 && /tools/bin/python -m pip install --constraint constraints.txt cyclonedx-bom setuptools uv
COPY pyproject.toml README.md LICENSE ./
COPY histgen_lib histgen_lib
COPY services services
RUN /tools/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM ${TRITON_IMAGE}@${TRITON_DIGEST} AS packaged
COPY constraints.txt pyproject.toml deploy/images/triton-overrides.txt /usr/share/histgen/
WORKDIR /usr/share/histgen
# Into the Python that Triton's Python backend starts. TensorRT's bindings are those of the image's own TensorRT, so that
# its backend takes the engines that histgen-prepare-models compiles; importing them proves that they fit.
RUN --mount=type=bind,from=build,source=/wheel,target=/wheel \
    --mount=type=bind,from=build,source=/tools,target=/tools \
    --mount=type=cache,target=/root/.cache/uv \
    grep -v '^numpy==' constraints.txt > most.txt \
 && for wheel in /wheel/*.whl; do \
      /tools/bin/uv pip install --python /usr/bin/python3 --break-system-packages --no-build \
        --constraint most.txt --override triton-overrides.txt "${wheel}[oidc,tracing,train,tensorrt]"; \
    done \
 && /tools/bin/uv pip install --python /usr/bin/python3 --break-system-packages --no-build --no-deps \
      "tensorrt-cu${CUDA_VERSION%%.*}-bindings==${TRT_VERSION%%+*}" \
 && /usr/bin/python3 -P -c 'import numpy, tensorrt_bindings, histgen_lib.export.prepared' \
 && /tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
      -o histgen-triton.cdx.json /usr/bin/python3 \
 && rm constraints.txt most.txt pyproject.toml triton-overrides.txt \
 && mkdir -p /models/engines && chown -R 65532:65532 /models

# What is in the image, to be taken out without running it: docker buildx build --target sbom --output …
FROM scratch AS sbom
COPY --from=packaged /usr/share/histgen/ /

FROM packaged AS image
ARG TRITON_IMAGE
ARG TRITON_DIGEST
ARG HISTGEN_VERSION=unknown
ARG HISTGEN_REVISION=unknown
LABEL org.opencontainers.image.title="histgen-triton" \
      org.opencontainers.image.description="Triton Inference Server with HistGen's models" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-Deep-Learning-Container" \
      org.opencontainers.image.version="${HISTGEN_VERSION}" \
      org.opencontainers.image.revision="${HISTGEN_REVISION}" \
      org.opencontainers.image.base.name="${TRITON_IMAGE}" \
      org.opencontainers.image.base.digest="${TRITON_DIGEST}"
COPY deploy/images/triton_health.py /opt/histgen/health.py
ENV PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    CUDA_CACHE_PATH=/tmp/cuda \
    HISTGEN_REVISION=${HISTGEN_REVISION} \
    MODELS=/models
WORKDIR /models
USER 65532:65532
EXPOSE 8001 8002
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s --retries=4 \
    CMD ["python3", "-P", "/opt/histgen/health.py"]
# The image's own entry point prints a banner with a shell; the server needs none.
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/models/repository", "--disable-auto-complete-config", \
     "--model-control-mode=explicit", "--load-model=*", "--allow-http=false", "--metrics-port=8002"]
