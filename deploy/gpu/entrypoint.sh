#!/bin/sh
# Kubernetes has this image start with the word driver or executor: Spark's own entrypoint knows what to do. Anything else is a command.
set -eu
case "${1:-}" in
  driver | executor)
    SPARK_HOME=$(python -c 'import importlib.util as u; print(*u.find_spec("pyspark").submodule_search_locations)')
    export SPARK_HOME
    exec "$(dirname "$0")/spark-entrypoint.sh" "$@"
    ;;
  *) exec "$@" ;;
esac
