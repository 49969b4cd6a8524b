"""Train a model: spark-submit --properties-file conf/spark/local.conf jobs/train.py"""

from lakehouse.cli.jobs import run_command

if __name__ == "__main__":
    run_command(__file__, "train")
