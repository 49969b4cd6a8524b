"""Run the bronze layer: spark-submit --properties-file conf/spark/local.conf jobs/bronze.py"""

from jobs._run import run_job

if __name__ == "__main__":
    run_job("bronze")
