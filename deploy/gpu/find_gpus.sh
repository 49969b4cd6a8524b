#!/bin/sh
# The GPUs of this machine, as Spark asks for them: {"name": "gpu", "addresses": ["0", "1"]}. Fails where there is none.
set -eu
found=$(nvidia-smi --query-gpu=index --format=csv,noheader | grep -E '^[0-9]+$' | sed 's/.*/"&"/' | paste -s -d, -)
case "$found" in
  *[0-9]*) echo "{\"name\": \"gpu\", \"addresses\": [$found]}" ;;
  *) echo "nvidia-smi names no GPU" >&2; exit 1 ;;
esac
