#!/bin/sh
# Compare CPU and GPU on this machine, without a network: the same tables, then how long each takes. The report is report.md, beside
# this script. Needs Python 3.11 or 3.12 (PYTHON=... names one) and, for the GPU, NVIDIA's driver. Takes what benchmarks.gpu takes, but
# its folder, which is work: sh run.sh [--years 1 20 100] [--rounds N] [--prices CPU GPU]
set -eu
case ${PYTHON:-} in "" | /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
cd "$(dirname "$0")"
kit=$PWD
# Delta's readers and Spark take these for something else.
case $kit in *[]%[{}*?^\|\\]*) echo "The kit cannot run in $kit: move it to a folder without any of % [ ] { } * ? ^ | \\" >&2; exit 1 ;; esac
case " $* " in *" --scratch"*) echo "What is measured goes to $kit/work: leave --scratch away" >&2; exit 2 ;; esac
# Nothing of this machine's own Python, pip or Spark.
unset PYTHONPATH PYTHONHOME SPARK_HOME SPARK_CONF_DIR PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON PYSPARK_DRIVER_PYTHON_OPTS
export PIP_CONFIG_FILE=/dev/null PIP_USER=0

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }
python=${PYTHON:-python3.12}
[ -n "${PYTHON:-}" ] || fits "$python" || python=python3.11
[ -n "${PYTHON:-}" ] || fits "$python" || python=python3
fits "$python" || { echo "Python 3.11 or 3.12 is needed: PYTHON=/path/to/python3 sh run.sh" >&2; exit 1; }

# Where Spark finds its packages: only whole paths will do, so each start says where the kit is by now.
conf=lakehouse/conf/spark/local.conf
sed -i '/^spark\.jars\.ivy /d' "$conf"
installed="$kit $(sha256sum < SHA256SUMS)"
if [ "$(cat venv/.installed 2>/dev/null)" != "$installed" ]; then
  echo "Checking and installing (some minutes)"
  sha256sum --check --quiet SHA256SUMS || { echo "Files are missing or damaged: bring the kit once more." >&2; exit 1; }
  rm -rf venv
  "$python" -m venv --without-pip venv
  # pip from its own wheel: a machine's Python may have none.
  install() {
    venv/bin/python "$(echo wheels/pip-*.whl)/pip" install --quiet --disable-pip-version-check --no-index --find-links wheels \
      --no-build-isolation --constraint lakehouse/constraints.txt "$@"
  }
  { install setuptools && install --editable "lakehouse[$(cat EXTRAS)]"; } > install.log 2>&1 || { cat install.log >&2; exit 1; }
  printf %s "$installed" > venv/.installed
fi
echo "spark.jars.ivy $kit/ivy" >> "$conf"

if java/bin/java -version > /dev/null 2>&1; then
  JAVA_HOME=$kit/java
elif [ ! -x "${JAVA_HOME:-}/bin/java" ]; then
  echo "The kit's Java does not run here, as where glibc is older than it was there: JAVA_HOME=/path/to/java-17 sh run.sh" >&2
  exit 1
fi
export JAVA_HOME PATH="$JAVA_HOME/bin:$PATH" LAKEHOUSE_GPU_JAR="$kit/rapids-4-spark.jar"
python=$kit/venv/bin/python
cd lakehouse
# What it does not know it says before all else.
"$python" -c 'from benchmarks.gpu import arguments; arguments()' "$@"
case " $* " in *" -h "* | *" --help "*) exit ;; esac

fence='```'
finish() {
  [ -z "$fence" ] || echo "$fence" >> ../report.md
  # Its headings one level further down.
  [ ! -e ../work/report.md ] || { echo; sed 's/^#/##/' ../work/report.md; } >> ../report.md
  echo "Written: $kit/report.md"
}
rm -f ../work/report.md ../work/results.json
{
  echo "# CPU and GPU"
  echo
  echo "Revision $(cat ../REVISION), $(date -u +%Y-%m-%d)."
  echo
  echo '```'
  nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv 2>&1 || echo "No GPU can be used here, and none computes what follows."
  echo '```'
  echo
  echo "## The same tables and models"
  echo
  echo "$fence"
} > ../report.md
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
status=0
echo "Comparing tables and models (some minutes)"
"$python" -m pytest tests/example/gpu -rs -p no:cacheprovider >> ../report.md 2>&1 || status=$?
echo "$fence" >> ../report.md
fence=
echo "Measuring"
"$python" -m benchmarks.gpu "$@" --scratch "$kit/work" || status=$?
exit "$status"
