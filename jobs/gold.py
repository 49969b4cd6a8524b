"""Run the gold layer: spark-submit --properties-file conf/spark/local.conf jobs/gold.py"""

from lakehouse.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__, "gold")
