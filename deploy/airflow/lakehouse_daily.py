"""An Airflow DAG that brings the tables of a lake up to date every night. Copy it to Airflow's folder of DAGs."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = "/srv/lakehouse"

with DAG(
    dag_id="lakehouse_daily",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    # The next run catches up after a missed day. Two runs at once would block each other.
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 1, "retry_delay": timedelta(minutes=10)},
) as dag:
    # Exit status 0: all tables are up to date. 1: a table failed. 2: an error ended the run, such as a wrong setting.
    # 3: files are rejected or rows quarantined. A retry ends with 3 again.
    BashOperator(
        task_id="run",
        bash_command=f"{PROJECT}/.venv/bin/lakehouse --project {PROJECT} run --strict",
        cwd=PROJECT,
        env={"LAKEHOUSE_LOCK_WAIT_SECONDS": "3600"},
        append_env=True,
        # Airflow's 99 would mark a task as skipped. No status of lakehouse means that.
        skip_on_exit_code=None,
    )
