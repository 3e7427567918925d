"""Watch: restarts with growing pauses and a limit; no restart of done, mistaken and cancelled jobs."""

import json
from dataclasses import replace

import pytest
from launch_jobs import ACTIVE, FAILED, GONE, SUSPENDED, Scripted, run_has, workers_end

from efficientnet_pod.errors import RunError
from launch.backends.api_errors import QuotaError
from launch.backends.backend import State
from launch.job import remembered as jobs
from launch.job.job import Job
from launch.watch import Pace, Watch
from launch.workdir.progress import mark_cancelled
from launch.workdir.reason import reason_of
from launch.workdir.storage import Folder


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    return Job("run1", "fake", "v4-16", str(tmp_path / "run1"), max_restarts=3)


def watch(job, backend):
    lines, slept = [], []
    watched = Watch(
        job, backend, Folder(), pace=Pace(poll=0.0, backoff=10.0, most=25.0), write_line=lines.append,
        sleep=slept.append,
    )  # fmt: skip
    code = watched.run()
    return code, [line.removeprefix("run1 ") for line in lines], [pause for pause in slept if pause], watched


@pytest.mark.parametrize("end", [SUSPENDED, GONE, State("CREATING", "", "waiting")])
def test_hours_of_flex_start_that_are_over_are_not_asked_for_again(job, end):
    backend = Scripted(State("CREATING", "", "waiting"), ACTIVE, ACTIVE, end)
    code, lines, _, _ = watch(replace(job, flex_hours=24), backend)
    assert code == 1 and backend.log == ["cancel 1"]
    assert lines[-1] == (
        "(attempt 1): its 24 h of flex-start are over, or were not granted; submit it again to go on where "
        "it was saved"
    )


def test_a_job_that_is_done_is_left_alone(job):
    code, lines, slept, _ = watch(job, Scripted(ACTIVE, workers_end(ACTIVE, 0, 0)))
    assert code == 0 and not slept
    assert lines == ["(attempt 1): ACTIVE", f"(attempt 1): done at step 0; records in {job.workdir}"]


def test_lost_work_is_told_and_pauses_grow_until_there_is_progress(job):
    run_has(job, step=13, checkpoint=10)

    def progresses(job):
        run_has(job, step=20, checkpoint=20)
        return SUSPENDED

    backend = Scripted(ACTIVE, SUSPENDED, ACTIVE, SUSPENDED, ACTIVE, progresses, workers_end(GONE, 0))
    code, lines, slept, watched = watch(job, backend)
    assert code == 0 and slept == [10.0, 20.0, 10.0]
    lost = "the machines are gone after step 13 of 40; checkpoint at step 10: 3 steps of work are lost"
    assert lines[:5] == [
        "(attempt 1): ACTIVE",
        "(attempt 1): step 13 of 40 (32 %)",
        "(attempt 1): SUSPENDED",
        f"(attempt 1): {lost}",
        "(attempt 1): it starts again in 10 s (restart 1 of 3)",
    ]
    assert (
        "(attempt 3): the machines are gone after step 20 of 40; checkpoint at step 20: no work is lost"
        in lines
    )
    assert backend.log[:4] == ["cancel 1", "submit 2", "cancel 2", "submit 3"]
    assert watched.job.attempt == 4 and jobs.recall("run1") == watched.job


def test_there_is_a_limit(job):
    backend = Scripted(FAILED)
    code, lines, slept, _ = watch(job, backend)
    assert code == 1 and slept == [10.0, 20.0, 25.0]
    assert "(attempt 1): FAILED: no capacity" in lines
    assert lines[-1] == (
        "(attempt 4): not started again: --max-restarts=3 are used up; submit it again to go on"
    )
    assert backend.log[-1] == "cancel 4"


def test_a_mistake_is_never_tried_again(job):
    backend = Scripted(ACTIVE, workers_end(ACTIVE, 2))
    code, lines, _, _ = watch(job, backend)
    assert code == 2 and backend.log == ["cancel 1"]
    assert lines[-1].endswith(
        "not started again: its command or recipe must be changed, and submit it again (exit code 2)"
    )


LOGS = {  # of worker 1, with the line that counts
    "efficientnet-pod: config.epochs=0 is too few": (
        "launch: worker 1: of 2, attempt 1\nefficientnet-pod: config.epochs=0 is too few\n"
        "launch: worker 1: ended with exit code 2\n"
    ),
    "ValueError: bad": "Traceback (most recent call last):\n  File x\nValueError: bad\nbye\n",
    "no such shard": (
        "efficientnet-pod: host 0 failed: no such shard\nlaunch: worker 1: ended with exit code 1\n"
    ),
    "could not install the code (try 3 of 3)": (
        "launch: worker 1: could not install the code (try 3 of 3)\n"
        "launch: worker 1: ended with exit code 1\n"
    ),
}


@pytest.mark.parametrize("line", LOGS)
def test_the_reason_of_an_end_is_the_last_error_in_the_log(job, line):
    Folder().write(f"{job.folder}/logs/a001-w0001.log", LOGS[line].encode())
    assert reason_of(job, Folder(), {0: 0, 1: 2}) == line.removeprefix("efficientnet-pod: ")


def test_the_reason_is_told_and_holds_no_secret(job):
    secret = "efficientnet-pod: hf_0123456789abcdefghij does not open the hub\n"
    Folder().write(f"{job.folder}/logs/a001-w0000.log", secret.encode())
    code, lines, _, _ = watch(job, Scripted(ACTIVE, workers_end(ACTIVE, 2)))
    assert code == 2 and lines[-1] == (
        "(attempt 1): not started again: [redacted] does not open the hub; change the command or recipe, and "
        "submit it again (exit code 2)"
    )


def test_without_a_log_the_journal_has_the_reason(job):
    rows = [{"kind": "start", "step": 0}, {"kind": "failed", "step": 3, "error": "RunError: disk full"}]
    Folder().write(f"{job.workdir}/journal.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    backend = Scripted(workers_end(GONE, 1), workers_end(GONE, 0))
    _, lines, _, _ = watch(job, backend)
    assert "(attempt 1): the run failed with exit code 1: RunError: disk full" in lines


class Hours:
    """A run of an hour, or a wait for machines, beside a watch whose sleep lets time pass."""

    def __init__(self, job, *, waits=0.0, steps=3600, seconds_of_a_step=1.0, came=(0, 1)):
        self.job, self.now, self.waits, self.steps, self.each = job, 0.0, waits, steps, seconds_of_a_step
        self.restarts, self.needs_bucket, self.asked, self.rows = "watch", False, [], 0
        Folder().write(f"{job.workdir}/plan.json", json.dumps({"total_steps": steps}).encode())
        for worker in came:
            Folder().write(f"{job.folder}/logs/a001-w{worker:04}.log", b"launch: up\n")

    def state(self, job):
        if self.now < self.waits:
            return State("WAITING_FOR_RESOURCES", "", "waiting")
        done = min(self.steps, int((self.now - self.waits) / self.each))
        rows = [
            {"split": "train", "step": n, "images_per_second": 64 / self.each, "seconds": n * self.each}
            for n in range(100, done + 1, 100)
        ]
        rows += [{"split": "eval", "step": n, "top1": n / 5000} for n in range(1000, done + 1, 1000)]
        if len(rows) != self.rows:
            self.rows = len(rows)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            Folder().write(f"{job.workdir}/metrics.jsonl", text.encode())
        return workers_end(ACTIVE, 0, 0)(job) if done == self.steps else ACTIVE

    def cancel(self, job):
        self.asked.append("cancel")

    def sleep(self, seconds):
        self.now += seconds

    def watch(self, poll=10.0):
        lines = []
        code = Watch(
            self.job, self, Folder(), pace=Pace(poll=poll), write_line=lines.append, sleep=self.sleep,
            clock=lambda: self.now,
        ).run()  # fmt: skip
        return code, [line.partition(": ")[2] for line in lines]


def test_progress_is_told_and_not_too_often(job):
    code, lines = Hours(job).watch()
    assert code == 0 and lines[0] == "ACTIVE" and lines[-1].startswith("done at step 3,600, top-1 60.00%")
    assert lines[2] == "step 300 of 3,600 (8.3 %), 64.0 images/s, about 55 min left"
    assert "step 1,000 of 3,600 (28 %), 64.0 images/s, about 43 min 20 s left, top-1 20.00%" in lines
    assert [line for line in lines if "top-1" in line and line.startswith("step")] == [
        line for line in lines if line.startswith(("step 1,000 ", "step 2,000 ", "step 3,000 "))
    ]
    assert 15 <= len(lines) <= 25, lines


def test_a_run_of_days_is_told_every_few_minutes(job):
    _, lines = Hours(job, steps=400, seconds_of_a_step=60.0).watch(poll=200.0)
    assert lines[1] == "step 100 of 400 (25 %), 1.07 images/s"
    assert len(lines) == 5  # rows come every 100 steps; nothing new is said of the same one


def test_a_long_wait_for_machines_is_told_with_what_else_can_be_done(job):
    _, lines = Hours(replace(job, zone="us-central2-b"), waits=3600.0, steps=10).watch()
    waits = [line for line in lines if line.startswith("WAITING_FOR_RESOURCES for")]
    assert [line.split(":")[0].partition(" for ")[2] for line in waits] == [
        "5 min",
        "10 min",
        "20 min",
        "40 min",
    ]
    assert waits[0].partition(": ")[2] == (
        "no v4-16 is free in us-central2-b, and it goes on waiting; or give up: efficientnet-pod launch "
        "cancel run1, then submit it with another --zone or --tpu"
    )


def test_a_run_that_failed_is_tried_again(job):
    backend = Scripted(workers_end(GONE, 134), workers_end(GONE, 0))
    code, lines, _, _ = watch(job, backend)
    assert code == 0 and lines[1] == (
        "(attempt 1): the run failed with exit code 134: see: efficientnet-pod launch logs run1"
    )


def test_a_cancelled_job_is_not_started_again(job):
    def cancelled(job):
        mark_cancelled(job, Folder())
        return GONE

    backend = Scripted(ACTIVE, cancelled)
    assert watch(job, backend)[0] == 1 and not backend.log


def test_an_api_that_fails_for_a_while_is_borne(job):
    backend = Scripted(RunError("the TPU API failed (busy)"), ACTIVE, workers_end(ACTIVE, 0, 0))
    code, lines, _, _ = watch(job, backend)
    assert code == 0 and lines[0] == "(attempt 1): the TPU API failed (busy)"
    with pytest.raises(RunError, match="busy"):
        watch(replace(job, attempt=9), Scripted(RunError("busy")))


def test_a_quota_that_does_not_suffice_is_waited_for(job):
    backend = Scripted(SUSPENDED, GONE, GONE, GONE, workers_end(ACTIVE, 0, 0))
    submit, backend.submit = backend.submit, None

    def refuses(job):
        backend.submit = submit
        raise QuotaError("the quota of project p does not suffice")

    backend.submit = refuses
    code, lines, slept, watched = watch(job, backend)
    assert code == 0 and slept == [10.0, 20.0] and watched.job.attempt == 3
    assert "(attempt 2): the quota of project p does not suffice" in lines


def test_a_resource_that_is_gone_without_a_word_counts_as_lost(job):
    code, lines, _, _ = watch(job, Scripted(ACTIVE, GONE, GONE, GONE, workers_end(ACTIVE, 0, 0)))
    assert code == 0
    assert "(attempt 1): the machines are gone before its first step; no work is lost" in lines


def test_attempts_that_can_leave_nothing_end_after_two(job):
    backend = Scripted(ACTIVE, GONE, GONE, GONE, ACTIVE, GONE)
    code, lines, _, _ = watch(job, backend)
    assert code == 1 and backend.log == ["cancel 1", "submit 2", "cancel 2"]
    assert lines[-1].startswith(
        f"(attempt 2): not started again: in 2 attempts no worker could write to {job.folder}; let the "
    )


def test_one_attempt_that_left_a_log_counts_anew(job):
    def leaves_a_log(job):
        Folder().write(f"{job.folder}/logs/a{job.attempt:03}-w0000.log", b"launch: up\n")
        return GONE

    gone = (ACTIVE, GONE, GONE, GONE)
    backend = Scripted(*gone, ACTIVE, leaves_a_log, GONE, GONE, *gone, ACTIVE, workers_end(ACTIVE, 0, 0))
    code, lines, _, _ = watch(job, backend)
    assert code == 0 and "(attempt 4): done at step 0" in lines[-1]


@pytest.mark.parametrize("came, who", [({0}, "worker 1 of 2 has"), ({1}, "worker 0 of 2 has"),
                                       (set(), "each worker of 2 has")])  # fmt: skip
def test_workers_that_do_not_come_are_named_after_a_time(job, came, who):
    hours = Hours(replace(job, max_restarts=0), came=came)
    code, lines = hours.watch(poll=60.0)
    assert code == 1 and hours.now == 900.0 and hours.asked == ["cancel"]
    (named,) = [line for line in lines if "left no log" in line]
    assert named == (
        f"{who} left no log within 15 min: the host is missing, its start-up script does not run, or it "
        "cannot write to the workdir; the machines are given back"
    )
