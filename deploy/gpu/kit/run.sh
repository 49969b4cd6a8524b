#!/bin/sh
# Compare CPU and GPU on this machine, without a network: the same tables, then how long each takes. The report is report.md, beside
# this script. Needs Python 3.11 or 3.12 (PYTHON=... names one) and, for the GPU, NVIDIA's driver. Takes what benchmarks.gpu takes:
# sh run.sh [--years 1 20 100] [--rounds N] [--prices CPU GPU]
set -eu
cd "$(dirname "$0")"
kit=$PWD

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }
for python in ${PYTHON:-python3.12 python3.11 python3}; do
  if fits "$python"; then break; fi
done
fits "$python" || { echo "Python 3.11 or 3.12 is needed: PYTHON=/path/to/python3 sh run.sh" >&2; exit 1; }

if [ ! -e venv/.installed ]; then
  sha256sum --check --quiet SHA256SUMS || { echo "Files are missing or damaged: bring the kit once more." >&2; exit 1; }
  rm -rf venv
  "$python" -m venv --without-pip venv
  # pip from its own wheel: a machine's Python may have none.
  install() {
    venv/bin/python "$(echo wheels/pip-*.whl)/pip" install --quiet --disable-pip-version-check --no-index --find-links wheels \
      --no-build-isolation --constraint lakehouse/constraints.txt "$@"
  }
  { install setuptools && install --editable "lakehouse[$(cat EXTRAS)]"; } > install.log 2>&1 || { cat install.log >&2; exit 1; }
  # Where Spark finds its packages; only whole paths will do.
  echo "spark.jars.ivy $kit/ivy" >> lakehouse/conf/spark/local.conf
  touch venv/.installed
fi

LAKEHOUSE_GPU_JAR=$(echo "$kit"/rapids-4-spark_*.jar)
export LAKEHOUSE_GPU_JAR JAVA_HOME="$kit/java" PATH="$kit/java/bin:$PATH"
cd lakehouse

{
  echo "# CPU and GPU"
  echo
  echo "Revision $(cat ../REVISION), $(date -u +%Y-%m-%d)."
  echo
  echo '```'
  nvidia-smi 2>&1 || echo "There is no nvidia-smi here: no driver is installed, and no GPU computes what follows."
  echo '```'
  echo
  echo "## The same tables"
  echo
  echo '```'
} > ../report.md
status=0
"$kit/venv/bin/python" -m pytest tests/gpu -rs -p no:cacheprovider >> ../report.md 2>&1 || status=$?
echo '```' >> ../report.md
"$kit/venv/bin/python" -m benchmarks.gpu --scratch "$kit/work" "$@" || status=$?
# Its headings one level further down.
[ ! -e ../work/report.md ] || { echo; sed 's/^#/##/' ../work/report.md; } >> ../report.md
echo "Written: $kit/report.md"
exit "$status"
