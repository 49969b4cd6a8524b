#!/bin/sh
# Put the parts of the GPU kit together, each checked before: sh join.sh && sh gpu-kit/run.sh
set -eu
cd "$(dirname "$0")"
[ ! -e gpu-kit ] || { echo "gpu-kit is here already: remove it first, or go on with sh gpu-kit/run.sh" >&2; exit 1; }
sha256sum --check --quiet SHA256SUMS || { echo "Parts are missing or damaged: bring those named above once more." >&2; exit 1; }
# Whole, or not at all.
rm -rf .gpu-kit.new
mkdir .gpu-kit.new
cat gpu-kit.tar.* | tar -xf - --no-same-owner -C .gpu-kit.new || { rm -rf .gpu-kit.new; echo "The kit could not be unpacked." >&2; exit 1; }
mv .gpu-kit.new/gpu-kit gpu-kit
rmdir .gpu-kit.new
