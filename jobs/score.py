"""Score with the champion: spark-submit --properties-file conf/spark/local.conf jobs/score.py --from 2013-12-01 --to 2013-12-31"""

import sys

from lakehouse.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["score"]
    main()
