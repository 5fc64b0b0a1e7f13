"""Long runs with faults, which `make test` has a few of: `python tests/soak.py --runs 200 --seed 1`.

Chaos runs play random tapes through vendors' stand-ins with random faults; kill runs end a process by SIGKILL at random
instants and go on. Each run has a seed of its own. A failure is printed with the command that repeats it, and the end
is a summary; the exit code is 1 where anything failed.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHAOS_A_JOB, KILLS_A_JOB, EXAMPLES = 10, 20, 1000
SEED = "FLOWTAPE_TEST_SEED"


@dataclass(frozen=True)
class Job:
    """One call of pytest: so many `runs` of a `kind`, from a seed on."""

    kind: str
    test: str
    runs: int
    seed: int
    setting: str = ""

    def env(self):
        """What the test is told by the environment."""
        runs = {self.setting: str(self.runs)} if self.setting else {}
        return {SEED: str(self.seed)} | runs

    def arguments(self):
        """What pytest is called with."""
        return ["-n", "0", "-s", f"--hypothesis-seed={self.seed}", self.test]

    def command(self):
        """The line for a shell that does it again."""
        settings = [f"{name}={value}" for name, value in self.env().items()]
        return " ".join([*settings, "pytest", *self.arguments()])

    def run(self):
        """Whether it passed, what it printed, and how many seconds it took."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *self.arguments()],
            cwd=ROOT, env=os.environ | self.env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return self, done.returncode == 0, done.stdout + done.stderr, time.monotonic() - began


def jobs(runs, seed):
    """All of them: so many chaos runs and as many kills, and a tenth as many of each other kind."""
    made = [
        Job("chaos", "tests/test_chaos.py", min(CHAOS_A_JOB, runs - at), seed + at, "FLOWTAPE_TEST_CHAOS")
        for at in range(0, runs, CHAOS_A_JOB)
    ]
    made += [
        Job(
            "kill of an ingest",
            "tests/test_kill.py",
            min(KILLS_A_JOB, runs - at),
            seed + at,
            "FLOWTAPE_TEST_KILLS",
        )
        for at in range(0, runs, KILLS_A_JOB)
    ]
    properties = (
        "readers",
        "readings",
        "test_side.py",
        "test_sessions.py",
        "test_conditions.py",
        "test_symbols.py",
    )
    made += [
        Job("property tests", f"tests/{of}", max(1, EXAMPLES * runs // 200), seed, "FLOWTAPE_TEST_EXAMPLES")
        for of in properties
    ]
    others = {
        "kills of a server": ("test_faults", "a_replay_killed_and_gone_on_with_ends_as_an_undisturbed_run"),
        "kill on a shared store": ("test_shared_store", "a_killed_ingest_is_taken_over_and_servers_follow"),
        "kill of a backfill": (
            "test_backfill",
            "processes_of_which_one_is_killed_make_what_one_process_makes",
        ),
    }
    for kind, (file, name) in others.items():
        test = f"tests/{file}.py::test_{name}"
        made += [Job(kind, test, 1, seed + at) for at in range(max(1, runs // 10))]
    return made


def main():
    """Do it all, two jobs at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="chaos runs, and kills of an ingest")
    parser.add_argument("--seed", type=int, default=time.time_ns() // 10**9, help="the first seed")
    parser.add_argument("--at-a-time", type=int, default=2, help="jobs at a time")
    given = parser.parse_args()
    print(f"soak: {given.runs} runs, first seed {given.seed}", flush=True)
    passed, failed, began = {}, [], time.monotonic()
    with ThreadPoolExecutor(given.at_a_time) as pool:
        for job, good, output, seconds in pool.map(Job.run, jobs(given.runs, given.seed)):
            runs, took = passed.get(job.kind, (0, 0.0))
            passed[job.kind] = runs + job.runs * good, took + seconds
            print(
                f"{'ok' if good else 'FAILED':6} {job.kind}, {job.runs} from seed {job.seed}: {seconds:.0f} s",
                flush=True,
            )
            if not good:
                failed.append(job)
                seeds = re.findall(r"^seed \d+: FAILED.*", output, re.M)
                print(
                    "\n".join(seeds or [f"seed {job.seed}"]),
                    output[-6000:],
                    f"again: {job.command()}",
                    sep="\n",
                    flush=True,
                )
    print(f"\nsoak, first seed {given.seed}, {(time.monotonic() - began) / 60:.1f} min:")
    for kind, (runs, took) in passed.items():
        print(f"  {runs:5} passed  {kind} ({took / 60:.1f} min)")
    for job in failed:
        print(f"  FAILED  {job.kind}: {job.command()}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
