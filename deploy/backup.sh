#!/bin/sh
# Copies a store that lies in a folder, while the stack runs: deploy/backup.sh FROM TO [STAGE…]
#
# What refers to others is copied before what it refers to, and the register of slides as it is at one moment.
# So whatever a copy says is done is there; what was written meanwhile is unfinished in it, or not known yet. Run
# again, it copies only what is new. How to restore: docs/operations.md.
set -eu
from=$(cd "$1" && pwd) && mkdir -p -m 700 "$2" && to=$(cd "$2" && pwd)
shift 2
[ $# -gt 0 ] || set -- pointers results register audit
cd "$from"
mkdir -p .incoming && moment=.incoming/backup # what is written later is newer, by the clock of the store's disk
trap 'rm -f "$moment"' EXIT

pointer='[^/]*reports/[^/]*/latest\.\(json\|history/.*\)'

copy() { # FOLDER [TEST OF FIND…]: files below it that are newer than their copies, or have none
    [ -d "$1" ] || return 0
    find "$@" -type f -print0 | xargs -0 -r cp -a -u --parents -t "$to"
}

for stage; do
    case $stage in
    pointers)
        rm -rf "$to/dead-letter" # letters that were replayed since
        copy dead-letter
        copy signed
        rm -rf "$to/withdrawn" # cases that were reinstated since
        copy withdrawn
        copy reports -regex "$pointer"
        copy case-reports -regex "$pointer"
        ;;
    results)
        copy dead-letter-replayed
        copy cases
        copy reports ! -regex "$pointer"
        copy case-reports ! -regex "$pointer"
        copy bags
        for pointer in reports/*/latest.json case-reports/*/latest.json; do # drafted since: not done in the copy
            [ -e "$to/$pointer" ] || rm -rf "$to/${pointer%/latest.json}"
        done
        copy cited
        ;;
    register)
        touch "$moment"
        for part in gateway/seen gateway/copies gateway/contents gateway/by-hand slides gateway/owners; do
            copy "$part" ! -newer "$moment"
        done
        ;;
    audit)
        touch "$moment"
        copy audit ! -newer "$moment"
        ;;
    *)
        echo "backup.sh: no such stage: $stage" >&2
        exit 2
        ;;
    esac
done
