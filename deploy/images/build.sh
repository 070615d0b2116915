#!/usr/bin/env bash
# Builds the images histgen and histgen-triton, and writes down what they were built of.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'TEXT'
Usage: deploy/images/build.sh [OPTIONS] [histgen|triton]…

Resolves the digests of the base images, builds (both images, if none is named), and leaves in out/images/:
  NAME.cdx.json       bill of materials (CycloneDX), which is in the image as well
  NAME.metadata.json  what buildx says of the build; NAME.txt  tag, revision, base image and digest

  --registry HOST/PATH  push to HOST/PATH/NAME, with SBOM and provenance attached; without it, load into docker
  --tag TAG             the version of pyproject.toml if not given
  --python IMAGE        base of histgen, with a tag; IMAGE@sha256:… to choose the digest yourself
  --triton IMAGE        base of histgen-triton
  --dry-run             print the commands, run none
  --help
TEXT
}

fail() { printf 'build: %s\n' "$*" >&2; exit 2; }
# Prints a command, and runs it unless that is all that was asked for.
run() {
  printf '+'; printf ' %q' "$@"; printf '\n'
  [ -n "$dry" ] || "$@"
}

python=docker.io/library/python:3.11-slim-bookworm
triton=nvcr.io/nvidia/tritonserver:26.02-py3
registry='' tag='' dry='' names=()
while [ $# -gt 0 ]; do
  case $1 in
    --registry | --tag | --python | --triton)
      [ $# -ge 2 ] || fail "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --dry-run) dry=yes ;;
    --help | -h) usage; exit 0 ;;
    histgen | triton) names+=("$1") ;;
    *) usage >&2; fail "unknown: $1" ;;
  esac
  shift
done
[ ${#names[@]} -gt 0 ] || names=(histgen triton)

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${tag:-$version}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-changed

# Prints the digest of an image: the one it names, else what its tag stands for today.
digest_of() {
  case $1 in
    *@sha256:*) echo "${1##*@}"; return ;;
  esac
  if [ -n "$dry" ]; then echo 'sha256:…'; return; fi
  local found
  found=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1")
  [[ $found =~ ^sha256:[0-9a-f]{64}$ ]] || fail "no digest for $1: $found"
  echo "$found"
}

build() {
  local part=$1 base=$2 name image argument digest common outputs
  name=histgen; [ "$part" = histgen ] || name=histgen-$part
  image=${registry:+$registry/}$name:$tag
  argument=PYTHON; [ "$part" = histgen ] || argument=TRITON
  [ -z "$dry" ] || printf '+ docker buildx imagetools inspect --format %q %q\n' '{{.Manifest.Digest}}' "$base"
  digest=$(digest_of "$base")
  common=(--file "deploy/images/$part.Dockerfile" --build-arg "${argument}_IMAGE=${base%%@*}" --build-arg "${argument}_DIGEST=$digest"
    --build-arg "HISTGEN_VERSION=$version" --build-arg "HISTGEN_REVISION=$revision")
  # Attestations need a registry: docker's own store keeps none.
  outputs=(--load); [ -z "$registry" ] || outputs=(--push --sbom=true --provenance=mode=max)
  run mkdir -p out/images
  run docker buildx build "${common[@]}" --target image --tag "$image" "${outputs[@]}" --metadata-file "out/images/$name.metadata.json" .
  run docker buildx build "${common[@]}" --target sbom --output type=local,dest=out/images .
  [ -n "$dry" ] || printf 'image %s\nrevision %s\nbase %s@%s\n' "$image" "$revision" "${base%%@*}" "$digest" >"out/images/$name.txt"
}

for part in "${names[@]}"; do
  if [ "$part" = histgen ]; then build histgen "$python"; else build triton "$triton"; fi
done
