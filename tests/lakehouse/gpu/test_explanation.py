"""The plugin's text about a plan, parsed and counted."""

from __future__ import annotations

from lakehouse.gpu.explanation import Node, Plan, TableReport, compute_coverage, parse_explanation

BRIDGE = "will run on GPU via CPU bridge because"
UNKNOWN = "GPU does not currently support the operator class"
TEXT = f"""\
*Exec <ProjectExec> will run on GPU
  *Expression <Alias> cast(a#1 as int) AS b#2 will run on GPU
    ^Expression <Cast> try_cast(a#1 as int) {BRIDGE} try_cast is not supported on the GPU
      ^Expression <In> a#1 IN (,
NA) {BRIDGE} it avoids excess CPU and GPU transfers
    ^ <UnixDate> unix_date(d#3) {BRIDGE} {UNKNOWN} UnixDate
  !Exec <WindowExec> cannot run on GPU because not all expressions can be replaced
    @Expression <Alias> last(x#4) AS y#5 could run on GPU
  #Exec <SortExec> could run on GPU but is going to be removed because replacing sortMergeJoin with shuffleHashJoin
  ! <RowDataSourceScanExec> cannot run on GPU because {UNKNOWN} RowDataSourceScanExec
"""


def test_an_explanation_is_parsed_by_line() -> None:
    plan = Plan("build", parse_explanation(TEXT))

    assert [node.name for node in plan.list_operators()] == ["ProjectExec", "WindowExec", "RowDataSourceScanExec"]
    assert plan.list_on_gpu() == 1
    assert plan.list_expressions() == {"*": 1, "^": 3, "@": 1}
    assert plan.list_fallbacks() == {
        ("WindowExec", "not all expressions can be replaced"): 1,
        ("RowDataSourceScanExec", f"{UNKNOWN} RowDataSourceScanExec"): 1,
    }
    assert plan.list_bridged() == {
        ("Cast", "try_cast is not supported on the GPU"): 1,
        ("UnixDate", f"{UNKNOWN} UnixDate"): 1,
    }


def test_coverage_is_the_share_of_operators() -> None:
    good, bad = Node("*", "Exec", "SortExec"), Node("!", "Exec", "WindowExec")
    reports = [TableReport("a.b", (Plan("build", (good, bad)), Plan("write", (good, good))))]
    assert compute_coverage(reports) == 0.75
    assert compute_coverage([TableReport("a.c", (), "not built yet")]) is None
