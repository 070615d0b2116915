#!/bin/sh
# Records the sources of the version before, which test_version_before.py runs beside those of today:
#
#     tests/recorded/version.sh COMMIT
#
# Only what its services, and its commands for the stream, need. `git get-tar-commit-id` tells the commit.
set -eu
cd "$(dirname "$0")/../.."
left_out='cli/offline evaluation export pretrained stack synth testing training'
git archive "$1" -- services histgen_lib $(printf ':!histgen_lib/%s ' $left_out) |
xz -9e >tests/recorded/version.tar.xz
