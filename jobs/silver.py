"""Run the silver layer: spark-submit --properties-file conf/spark/local.conf jobs/silver.py"""

from lakehouse.cli.jobs import run_job

if __name__ == "__main__":
    run_job(__file__, "silver")
