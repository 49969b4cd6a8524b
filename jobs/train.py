"""Train a model: spark-submit --properties-file conf/spark/local.conf jobs/train.py"""

import sys

from lakehouse.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
