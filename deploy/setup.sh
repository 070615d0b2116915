#!/usr/bin/env bash
# Builds .venv/, .triton/ and .local/ and installs the Debian packages that are missing, saying which.
#   deploy/setup.sh base     what `histgen report` needs: no torch, no Java
#   deploy/setup.sh triton   .triton/ only: tritonserver and what its models import
#   deploy/setup.sh kafka    .local/kafka/ only: Apache Kafka's jars, and Java
#   deploy/setup.sh all      everything: training, evaluation, tritonserver, Kafka, tests
# Running it again changes nothing, until the files that say what is installed change.
set -euo pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
python=${PYTHON:-python3}
venv=.venv

say() { printf 'setup: %s\n' "$*" >&2; }

# Debian packages that `missing_command:package` pairs ask for, installed in one go.
need_debian() {
  local packages=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || packages+=("${pair##*:}")
  done
  [ ${#packages[@]} -eq 0 ] || install_debian "${packages[@]}"
}

# Another apt, such as the one of a machine's first start, holds the lists for a while.
refresh_debian() {
  for _ in $(seq 12); do
    apt-get -qq update >&2 && return
    say "apt-get update did not work; trying again in 10 s"
    sleep 10
  done
  apt-get -qq update >&2
}

install_debian() {
  say "installing Debian packages: $*"
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "cannot install them here. As root on Debian: apt-get install $*"
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  refresh_debian
  apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" >&2
}

fingerprint() { cat pyproject.toml constraints.txt deploy/tensorrt/requirements.txt "$0" | sha256sum | cut -d' ' -f1; }

make_venv() {
  [ -x $venv/bin/python ] && return
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "Python 3.11 or newer is needed"; exit 1; }
  say "making $venv"
  new_environment $venv
}

new_environment() {
  "$python" -c 'import ensurepip' 2>/dev/null || install_debian python3-venv
  "$python" -m venv "$1"
}

install_python() {
  local target=$1
  say "installing Python packages ($target)"
  $venv/bin/python -m pip --version >/dev/null 2>&1 || $venv/bin/python -m ensurepip --upgrade >&2
  $venv/bin/python -m pip install --quiet --constraint constraints.txt uv >&2
  # uv is quick but reads its own settings only; where that does not reach an index, pip (with the user's settings) does.
  UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-}}
  [ -n "$UV_DEFAULT_INDEX" ] && export UV_DEFAULT_INDEX || unset UV_DEFAULT_INDEX
  VIRTUAL_ENV=$PWD/$venv $venv/bin/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable "$target" >&2 ||
    $venv/bin/python -m pip install --quiet --constraint constraints.txt --editable "$target" >&2
  $venv/bin/python -m compileall -q histgen_lib services || true # many processes are started: none should compile again
}

# An environment of its own: tritonserver's Python backend needs a numpy older than ours.
make_triton() {
  local fingerprint library
  fingerprint=$(cat deploy/triton/* "$0" | sha256sum | cut -d' ' -f1)
  [ "$(cat .triton/.histgen 2>/dev/null)" = "$fingerprint" ] && return
  say "making .triton (tritonserver)"
  rm -rf .triton
  new_environment .triton
  .triton/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --requirement deploy/triton/requirements.txt >&2
  library=$(.triton/bin/python deploy/triton/finish.py)
  [ -z "$library" ] || { install_debian "$library" && library=$(.triton/bin/python deploy/triton/finish.py); }
  [ -z "$library" ] || { say "tritonserver needs $library, which is not to be found"; exit 1; }
  echo "$fingerprint" >.triton/.histgen
}

# Apache Kafka as its project publishes it, for `histgen up --broker kafka`.
fetch_kafka() {
  local wanted
  wanted=$(sha256sum <deploy/kafka/pom.xml | cut -d' ' -f1)
  need_debian java:default-jre-headless
  [ "$(cat .local/kafka/.histgen 2>/dev/null)" = "$wanted" ] && return
  need_debian mvn:maven
  say "fetching Apache Kafka's jars"
  rm -rf .local/kafka/libs
  mvn --quiet --batch-mode -Dstyle.color=never --file deploy/kafka/pom.xml package >&2
  echo "$wanted" >.local/kafka/.histgen
}

# Debian's Prometheus, unpacked beside us instead of installed: its package would start a server for all the world.
fetch_prometheus() {
  [ -x .local/prometheus/usr/bin/prometheus ] && return
  command -v apt-get >/dev/null 2>&1 || { say "the tests need Debian's prometheus, and there is no apt-get here"; exit 1; }
  say "fetching Prometheus"
  rm -rf .local/prometheus && mkdir -p .local/prometheus
  [ "$(id -u)" -ne 0 ] || refresh_debian
  (cd .local/prometheus && apt-get -qq -o APT::Sandbox::User=root download prometheus >&2 && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
}

# The real helm, where Go can build it; charts are rendered with helm-python-sdk, Helm 4's engine, as well.
build_helm() {
  local wanted=v3.22.0
  [ "$(cat .local/helm/.histgen 2>/dev/null)" = "$wanted" ] && return
  command -v go >/dev/null 2>&1 || { say "there is no Go to build helm with; the chart is checked with helm-python-sdk alone"; return 0; }
  say "building helm $wanted"
  mkdir -p .local/helm
  GOBIN=$PWD/.local/helm CGO_ENABLED=0 go install "helm.sh/helm/v3/cmd/helm@$wanted" >&2 && echo "$wanted" >.local/helm/.histgen
}

# Docker's own compose, which checks deploy/compose.yaml without a docker; of later versions Go builds none by name.
build_compose() {
  local wanted=v5.0.2
  [ "$(cat .local/compose/.histgen 2>/dev/null)" = "$wanted" ] && return
  command -v go >/dev/null 2>&1 || { say "there is no Go to build docker compose with; deploy/compose.yaml is checked by its structure alone"; return 0; }
  say "building docker compose $wanted"
  mkdir -p .local/compose
  GOBIN=$PWD/.local/compose CGO_ENABLED=0 go install "github.com/docker/compose/v5/cmd@$wanted" >&2 &&
    mv .local/compose/cmd .local/compose/docker-compose && echo "$wanted" >.local/compose/.histgen
}

case $part in
  base) target=. ;;
  kafka) fetch_kafka; exit 0 ;;
  triton) make_triton; exit 0 ;;
  all) target='.[train,evaluate,tracing,oidc,tensorrt,dev]' ;;
  *) say "unknown part '$part': base, triton, kafka or all"; exit 2 ;;
esac

wanted=$(fingerprint)
done_before() { [ -f "$venv/.histgen-$1" ] && [ "$(cat "$venv/.histgen-$1")" = "$wanted" ]; }

if [ "$part" = all ]; then
  need_debian java:default-jre-headless chromium:chromium openssl:openssl pdftotext:poppler-utils
  make_triton
  fetch_kafka
  fetch_prometheus
  build_helm
  build_compose
fi
if done_before all || { [ "$part" = base ] && done_before base; }; then
  exit 0
fi
make_venv
install_python "$target"
[ "$part" != all ] || $venv/bin/python -m pip install --quiet --no-deps --only-binary :all: --requirement deploy/tensorrt/requirements.txt >&2
echo "$wanted" >"$venv/.histgen-$part"
say "done"
