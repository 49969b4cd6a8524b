"""Check the champion.

spark-submit --properties-file conf/spark/local.conf jobs/monitor.py --from 2013-12-01 --to 2013-12-31
"""

from lakehouse.cli.jobs import run_command

if __name__ == "__main__":
    run_command(__file__, "monitor")
