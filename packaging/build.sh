#!/bin/sh
# packaging/build.sh [FOLDER]    builds all packages into FOLDER, dist without it
out=$(realpath -m -- "${1:-dist}")
exec go -C "$(dirname "$0")" run . "$out"
