"""Write docs/support.md from the contract tests that pass.

    python scripts/experiments/support_table.py                 # runs them first, the slow ones too
    python scripts/experiments/support_table.py --report FILE   # takes `pytest tests/test_contract.py --junitxml=FILE`

Exits with 1 when a contract test fails; the table then shows where.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "support.md"

#: A column for each promise, and the tests that hold it.
PROMISES: dict[str, tuple[str, ...]] = {
    "exact gradient": (
        "test_the_gradient_before_the_clip_is_that_of_the_sum",
        "test_where_sb3_does_not_clip_the_pull_is_bounded",
        "test_a_policy_with_a_distribution_of_its_own_is_asked_for_it",
    ),
    "pull": ("test_the_harder_the_pull_the_nearer_to_a_fixed_teacher",),
    "every step": ("test_deposits_are_the_actors_steps_divided_by_the_stride",),
    "off is off": (
        "test_without_a_pull_training_is_plain_sb3_bit_for_bit",
        "test_without_a_pull_no_teacher_leaves_a_trace",
    ),
    "no trace": ("test_a_deposit_leaves_no_trace_and_draws_no_global_random_number",),
    "clean after errors": (
        "test_nothing_stays_behind_whatever_happens_and_training_goes_on",
        "test_nothing_stays_behind_on_any_states",
    ),
    "undistill": ("test_undistilled_it_goes_on_as_if_it_had_never_been_distilled",),
    "plain zip": ("test_its_zip_acts_the_same_in_plain_sb3_where_rlsd_is_missing",),
    "exact resume": (
        "test_resumed_training_is_that_which_never_stopped",
        "test_resumed_training_on_its_own_replay_buffer_is_that_which_never_stopped",
        "test_resumed_training_by_any_teacher_is_that_which_never_stopped",
        "test_resumed_training_on_any_states_is_that_which_never_stopped",
    ),
    "SB3's API": (
        "test_learning_twice_and_in_another_environment_goes_on_distilling",
        "test_parameters_can_be_read_set_and_taken_from_a_file",
        "test_it_predicts_for_one_observation_and_for_many",
        "test_evaluation_and_checkpoint_callbacks_write_agents_that_remember",
        "test_its_policy_can_be_saved_and_loaded_by_itself",
        "test_a_copy_trains_on_as_the_original",
        "test_the_three_doors_lead_to_the_same_training",
    ),
}

MEANING = """\
- **exact gradient**: before any clip, the gradient is that of the agent's loss plus the penalty, by independent
  autograd of the sum; for TRPO that of the penalised objective; for ARS each candidate's return less its penalty. Where
  SB3 does not clip, the penalty's gradient keeps within its bound.
- **pull**: the stronger the penalty, the nearer the agent stays to a fixed teacher.
- **every step**: each gradient step of the actor carries a penalty, or each k-th as asked.
- **off is off**: with strength 0, or before there is a teacher, parameters, optimizers, buffers, logs and random
  generators are those of plain SB3, to the last bit.
- **no trace**: a deposit changes nothing but the gradient, and draws no global random number.
- **clean after errors**: after an exception, Ctrl-C or a callback's stop nothing is left on the agent, and training
  goes on.
- **undistill**: the agent is of its original class again, and trains on as if it had never been distilled.
- **plain zip**: a saved agent loads in plain SB3 where rlsd is not installed, and acts the same.
- **exact resume**: stopped, saved, resumed and trained on is the same as never stopped, to the last bit.
- **SB3's API**: learning again, another environment, parameters, prediction, evaluation and checkpoint callbacks,
  policy files, pickling, and all three doors.
"""

SPACES: dict[str, str] = {
    "discrete": "Discrete",
    "box": "Box",
    "multidiscrete": "MultiDiscrete",
    "multibinary": "MultiBinary",
    "gsde": "gSDE",
    "gsde_squashed": "gSDE",
    "dict": "Dict",
    "box_dict": "Dict",
    "image_chw": "image",
    "image_hwc": "image",
    "box_image": "image",
    "shared_image": "image",
    "goal": "HER",
    "box_goal": "HER",
    "normalized": "VecNormalize",
    "normalized_discrete": "VecNormalize",
    "normalized_dict": "VecNormalize",
    "discrete_observations": "Discrete observations",
    "regularized": "batch norm, dropout",
    "separate_extractors": "batch norm, dropout",
}


@dataclass(frozen=True)
class Result:
    """What came of one test on one agent."""

    test: str
    algorithm: str
    kind: str
    passed: bool


def main() -> int:
    """Run the tests or take a report, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", type=Path, help="a junit report of tests/test_contract.py; without it they are run")
    parser.add_argument("--out", type=Path, default=TABLE, help="the file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = arguments.report or run(Path(folder, "report.xml"))
        results = read(report)
    arguments.out.write_text(page(results), encoding="utf-8")
    failed = [result for result in results if not result.passed]
    for result in failed:
        print(f"failed: {result.test} for {result.algorithm}, {result.kind}", file=sys.stderr)
    return 1 if failed else 0


def run(report: Path) -> Path:
    """Run all contract tests and return their report."""
    command = ["-m", "pytest", "-q", "tests/test_contract.py", "-m", "slow or not slow", f"--junitxml={report}"]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    return report


def read(report: Path) -> list[Result]:
    """Read what came of each test.

    :raises ValueError: when a test is in no column, or a column's test is not in the report.
    """
    known = {test for tests in PROMISES.values() for test in tests}
    results = []
    for case in ET.parse(report).iter("testcase"):
        test, _, identifier = (case.get("name") or "").partition("[")
        found = re.search(r"([A-Z]\w+)-([a-z_]+)(?:-1env)?\]", "[" + identifier)
        if found is None:
            continue
        if test not in known:
            raise ValueError(f"{test} is in no column of the table: add it to PROMISES in {Path(__file__).name}")
        passed = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        results.append(Result(test, found[1], found[2], passed))
    missing = known - {result.test for result in results}
    if missing:
        raise ValueError(f"the report lacks {', '.join(sorted(missing))}")
    return results


def page(results: list[Result]) -> str:
    """Return the page in Markdown."""
    columns = {promise: [r for r in results if r.test in tests] for promise, tests in PROMISES.items()}
    by_space: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_space[SPACES[result.kind]].append(result)
    spaces = {space: by_space[space] for space in dict.fromkeys(SPACES.values()) if by_space[space]}
    passed = sum(result.passed for result in results)
    return f"""# What works with what

Written by `python scripts/experiments/support_table.py` from {len(results)} tests of
`tests/test_contract.py`, {passed} of which passed. Not edited by hand. A number is how many tests there are, each on
another agent or for another part of the promise, when all of them passed; **no** means that one did not; nothing means
that it does not apply or was not tested.

## Promises

{table(results, columns)}

{MEANING}
## Actions, observations and environments

All promises together. Observations are vectors where nothing else is said.

{table(results, spaces)}
"""


def table(results: list[Result], columns: dict[str, list[Result]]) -> str:
    """Return a Markdown table with a row for each algorithm."""
    algorithms = list(dict.fromkeys(result.algorithm for result in results))
    rows = [["algorithm", *columns], ["---", *([":-:"] * len(columns))]]
    for algorithm in algorithms:
        rows.append([algorithm, *(cell([r for r in some if r.algorithm == algorithm]) for some in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(results: list[Result]) -> str:
    """Return what stands in a cell."""
    if not results:
        return ""
    return str(len(results)) if all(result.passed for result in results) else "**no**"


if __name__ == "__main__":
    sys.exit(main())
