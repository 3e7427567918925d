"""Several machines for one run: the next after a while, a preferred one again, and lists that are refused."""

from dataclasses import replace

import pytest
from launch_jobs import ROOT, launch

from efficientnet_pod.errors import RunError, UserError
from launch.backends.api_errors import QuotaError
from launch.backends.backend import State
from launch.elastic import Wishes, wishes_of
from launch.job import remembered as jobs
from launch.job.job import Job, from_json
from launch.watch import Pace, Watch
from launch.workdir.progress import is_asked_to_stop, mark_cancelled, workers_with_a_log
from launch.workdir.storage import Folder

LARGE, MIDDLE, SMALL = "v4-32", "v4-16", "v4-8"
NUMBERS = {
    LARGE: "16 replicas on 16 devices, 1 micro-batch a step",
    MIDDLE: "16 replicas on 8 devices, 2 micro-batches a step",
    SMALL: "16 replicas on 4 devices, 4 micro-batches a step",
}
STATES = {
    "granted": State("ACTIVE", "", "running"),
    "waits": State("WAITING_FOR_RESOURCES", "", "waiting"),
    "fails": State("FAILED", "no capacity", "lost"),
    "lost": State("SUSPENDED", "", "lost"),
}


class Cloud:
    """A backend whose machines are granted, refused or waited for; time passes when a watch sleeps.

    Attributes:
      word: a key of `STATES`, or ``quota``, by machine; one that is not named waits.
      requests: jobs by resource.
      log: resources that were made and deleted, with their machines.
      events: functions that are called once their minute is over.
      now: time, in seconds.
    """

    restarts, needs_bucket = "watch", False

    def __init__(self, **word):
        self.word = {f"v4-{name[1:]}": state for name, state in word.items()}
        self.requests, self.log, self.events, self.now, self.minutes = {}, [], {}, 0.0, []

    def submit(self, job):
        if self.word.get(job.tpu) == "quota":
            raise QuotaError(f"the quota does not suffice for {job.tpu}")
        self.log.append(f"{job.resource} {job.attempt}: {job.tpu}")
        self.minutes.append(self.now / 60)
        self.requests[job.resource] = job
        return 0

    def cancel(self, job):
        if self.requests.pop(job.resource, None):
            self.log.append(f"{job.resource} deleted")

    def state(self, job):
        if job.resource not in self.requests:
            return State("GONE", "", "gone")
        assert self.requests[job.resource].attempt == job.attempt
        state = STATES[self.word.get(job.tpu, "waits")]
        if state.phase == "running" and not workers_with_a_log(job, Folder()):
            for worker in range(job.hosts):
                Folder().write(f"{job.folder}/logs/a{job.attempt:03}-w{worker:04}.log", b"up")
        return state

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 60 * 1000, self.log
        for minute in [minute for minute in self.events if 60 * minute <= self.now]:
            self.events.pop(minute)()

    def becomes(self, machine, word):
        return lambda: self.word.update({machine: word})

    def workers_end(self, code, attempt=None):
        def end():
            (job,) = [job for job in self.requests.values() if attempt in (None, job.attempt)]
            for worker in range(job.hosts):
                path = f"{job.folder}/ended/a{job.attempt:03}-w{worker:04}"
                Folder().write(path, f"{code}\n".encode())

        return end


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    return Job("run1", "fake", LARGE, str(tmp_path / "run1"), max_restarts=3, wishes=tuple(NUMBERS))


def watch(job, cloud, *, machines=(LARGE, MIDDLE), is_new=False, **minutes):
    if job.resource not in cloud.requests and not is_new:
        cloud.requests[job.resource] = job
    lines = []
    watched = Watch(
        job,
        cloud,
        Folder(),
        pace=Pace(poll=60.0, backoff=60.0),
        wishes=Wishes({name: NUMBERS[name] for name in machines}, **minutes),
        write_line=lines.append,
        sleep=cloud.sleep,
        clock=lambda: cloud.now,
    )
    code = watched.run()
    return code, [line.removeprefix("run1 ") for line in lines], watched.job


def test_the_next_machine_is_asked_for_after_the_time(job):
    cloud = Cloud(_32="lost")
    cloud.events = {1: cloud.becomes(LARGE, "waits"), 30: cloud.becomes(MIDDLE, "granted")}
    cloud.events |= {40: cloud.workers_end(0)}
    code, lines, last = watch(job, cloud)
    assert code == 0 and (last.tpu, last.attempt) == (MIDDLE, 3)
    assert lines[1:4] == [
        "(attempt 1): the machines are gone before its first step; no work is lost",
        "(attempt 1): it starts again in 60 s (restart 1 of 3)",
        "(attempt 2): WAITING_FOR_RESOURCES",
    ]
    numbers = "16 replicas on 8 devices, 2 micro-batches a step"
    said = f"(attempt 2): v4-32 was not granted within 15 minutes; v4-16 is asked for: {numbers}"
    assert lines[4] == said
    assert cloud.log[:4] == ["run1 deleted", "run1 2: v4-32", "run1 deleted", "run1 3: v4-16"]
    assert cloud.minutes == [1, 16]


def test_they_are_asked_for_in_turn_and_waiting_uses_up_no_restarts(job):
    cloud = Cloud()
    cloud.events = {75: cloud.becomes(MIDDLE, "granted"), 80: cloud.workers_end(0)}
    code, lines, last = watch(job, cloud, machines=NUMBERS, minutes=15)
    assert code == 0 and last.tpu == MIDDLE
    asked = [line.partition(": ")[2] for line in cloud.log if "deleted" not in line]
    assert asked == [MIDDLE, SMALL, LARGE, MIDDLE] and cloud.minutes == [15, 30, 45, 60]
    assert not any("restart" in line for line in lines)


def test_what_the_api_refuses_is_not_waited_for(job):
    cloud = Cloud(_32="lost", _16="quota", _8="granted")
    cloud.events = {1: cloud.becomes(LARGE, "fails"), 10: cloud.workers_end(0)}
    code, lines, last = watch(job, cloud, machines=NUMBERS)
    assert code == 0 and last.tpu == SMALL and cloud.now == 600
    assert lines[3:8] == [
        "(attempt 2): FAILED: no capacity",
        f"(attempt 2): v4-32 was not granted; v4-16 is asked for: {NUMBERS[MIDDLE]}",
        "(attempt 3): the quota does not suffice for v4-16",
        f"(attempt 3): v4-16 was not granted; v4-8 is asked for: {NUMBERS[SMALL]}",
        "(attempt 4): ACTIVE",
    ]


def test_an_api_that_fails_is_asked_for_the_same_machine_again(job):
    cloud = Cloud(_32="lost", _16="granted")
    submit = cloud.submit

    def fails(request):
        cloud.submit = submit
        cloud.word[LARGE] = "granted"
        raise RunError("the TPU API failed (busy)")

    cloud.submit = fails
    cloud.events = {20: cloud.workers_end(0)}
    code, lines, last = watch(job, cloud)
    assert code == 0 and (last.tpu, last.attempt) == (LARGE, 3)
    assert "(attempt 2): the TPU API failed (busy)" in lines and "not granted" not in "".join(lines)


def test_a_round_of_refusals_is_a_restart_with_its_pause_and_its_limit(job):
    cloud = Cloud(_32="quota", _16="quota")
    code, lines, _ = watch(job, cloud, is_new=True)
    assert code == 1 and not cloud.requests
    paused = [line for line in lines if "starts again" in line]
    assert [line.partition(": ")[2] for line in paused] == [
        "it starts again in 60 s (restart 1 of 3)",
        "it starts again on v4-32 in 120 s (restart 2 of 3)",
        "it starts again on v4-32 in 240 s (restart 3 of 3)",
    ]
    assert "--max-restarts=3 are used up" in lines[-1]


def test_it_goes_back_once_the_preferred_machine_is_granted(job):
    cloud = Cloud(_16="granted")
    begun = replace(job, tpu=MIDDLE, attempt=7)
    cloud.events = {100: cloud.becomes(LARGE, "granted"), 104: cloud.workers_end(42, attempt=7)}
    cloud.events |= {120: cloud.workers_end(0)}
    code, lines, last = watch(begun, cloud)
    assert code == 0 and (last.tpu, last.attempt, last.beside) == (LARGE, 8, None)
    assert [line for line in lines if "done" not in line] == [
        "(attempt 7): ACTIVE",
        "(attempt 7): v4-32 is asked for again; v4-16 goes on until it is granted",
        "(attempt 7): v4-32 is granted again: the run goes back to it",
        "(attempt 8): ACTIVE",
    ]
    assert cloud.log == ["run1-a008 8: v4-32", "run1 deleted", "run1-a008 deleted"]
    assert cloud.minutes == [60]
    assert Folder().names(f"{job.folder}/ended")[:2] == ["a007-stop", "a007-w0000"]
    assert "a008-turn" in Folder().names(f"{job.folder}/ended")
    assert is_asked_to_stop(begun, Folder())


def test_a_machine_that_trains_is_kept_while_the_preferred_one_is_refused(job):
    cloud = Cloud(_16="granted", _32="quota")
    cloud.events = {150: cloud.becomes(LARGE, "fails"), 200: cloud.workers_end(0)}
    code, lines, last = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 0 and last.tpu == MIDDLE and last.attempt == 1
    assert lines.count("(attempt 1): the quota does not suffice for v4-32") == 2
    assert "(attempt 1): v4-32 was not granted (FAILED); v4-16 goes on" in lines
    assert cloud.log == ["run1-a002 2: v4-32", "run1-a002 deleted", "run1 deleted"]


def test_of_two_preferred_machines_each_has_its_time(job):
    cloud = Cloud(_8="granted")
    cloud.events = {66: cloud.becomes(MIDDLE, "granted"), 72: cloud.workers_end(42, attempt=1)}
    cloud.events |= {80: cloud.workers_end(0)}
    code, _, last = watch(replace(job, tpu=SMALL), cloud, machines=NUMBERS, minutes=5)
    assert code == 0 and last.tpu == MIDDLE
    asked = [line.partition(": ")[2] for line in cloud.log if "deleted" not in line]
    assert asked == [LARGE, MIDDLE]


def test_zero_never_goes_back(job):
    cloud = Cloud(_16="granted")
    cloud.events = {900: cloud.workers_end(0)}
    code, _, last = watch(replace(job, tpu=MIDDLE), cloud, return_minutes=0)
    assert code == 0 and last.tpu == MIDDLE and cloud.log == ["run1 deleted"]


def test_lost_machines_are_followed_by_what_is_asked_for_already(job):
    cloud = Cloud(_16="granted")
    cloud.events = {70: cloud.becomes(MIDDLE, "lost"), 71.5: cloud.becomes(MIDDLE, "granted")}
    cloud.events |= {90: cloud.workers_end(0)}
    code, lines, last = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 0 and (last.tpu, last.attempt) == (MIDDLE, 3)
    assert "(attempt 1): it goes on with v4-32 (restart 1 of 3)" in lines
    assert cloud.log[:4] == ["run1-a002 2: v4-32", "run1 deleted", "run1-a002 deleted", "run1-a002 3: v4-16"]
    assert cloud.minutes == [60, 85]  # the request keeps its place, and has its time once more


def test_workers_that_do_not_end_are_waited_for_no_longer_than_a_quarter_of_an_hour(job):
    cloud = Cloud(_16="granted")
    cloud.events = {70: cloud.becomes(LARGE, "granted"), 100: cloud.workers_end(0)}
    code, lines, last = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 0 and last.tpu == LARGE and "run1 deleted" in cloud.log
    assert "(attempt 1): its workers have not ended within 15 minutes" in lines


def test_a_watch_that_was_killed_goes_on_where_it_was(job):
    cloud = Cloud(_16="granted")

    def kill():
        raise KeyboardInterrupt

    cloud.events = {65: kill}
    with pytest.raises(KeyboardInterrupt):
        watch(replace(job, tpu=MIDDLE), cloud)
    kept = jobs.recall("run1")
    assert kept.beside and from_json(kept.to_json()) == kept
    cloud.events = {70: cloud.becomes(LARGE, "granted"), 72: kill}
    with pytest.raises(KeyboardInterrupt):
        watch(kept, cloud)
    cloud.events = {73: cloud.workers_end(42, attempt=1), 80: cloud.workers_end(0)}
    code, _, last = watch(jobs.recall("run1"), cloud)
    assert code == 0 and last.tpu == LARGE and not cloud.requests


def test_cancel_frees_both_machines_and_ends_the_watch(job, monkeypatch, capsys):
    cloud = Cloud(_16="granted")
    monkeypatch.setattr("launch.follow.backend_named", lambda name: cloud)
    cloud.events = {65: lambda: launch(capsys, "cancel", "run1")}
    code, lines, _ = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 1 and not cloud.requests
    assert lines[-1] == "(attempt 1): cancelled; it is not started again"

    waits = Cloud()
    waits.events = {5: lambda: mark_cancelled(replace(job, attempt=9), Folder())}
    code, lines, _ = watch(replace(job, attempt=9), waits)
    assert code == 1 and waits.log == [] and "cancelled" in lines[-1]


def test_an_api_that_fails_beside_a_run_is_borne(job):
    cloud = Cloud(_16="granted")
    state, failures = cloud.state, []

    def fails(request):
        if request.tpu == LARGE and len(failures) < 2:
            failures.append(request)
            raise RunError("the TPU API failed (busy)")
        return state(request)

    cloud.state = fails
    cloud.events = {70: cloud.workers_end(0, attempt=1)}
    code, lines, _ = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 0 and lines.count("(attempt 1): the TPU API failed (busy)") == 2


def test_an_attempt_has_a_number_that_no_worker_has_used(job):
    cloud = Cloud(_16="granted", _32="granted")
    Folder().write(f"{job.folder}/ended/a002-w0003", b"1\n")  # of an earlier request for larger machines
    cloud.events = {62: cloud.workers_end(42, attempt=1), 70: cloud.workers_end(0)}
    code, _, last = watch(replace(job, tpu=MIDDLE), cloud)
    assert code == 0 and last.attempt == 3 and last.resource == "run1-a003"


def test_status_and_logs_know_both_machines_and_earlier_workers(job, monkeypatch, capsys):
    cloud = Cloud(_16="granted")
    monkeypatch.setattr("launch.follow.backend_named", lambda name: cloud)
    small = replace(job, tpu=MIDDLE, attempt=2)
    cloud.submit(small)
    jobs.remember(replace(small, beside=small.again(tpu=LARGE)))
    monkeypatch.setenv("COLUMNS", "200")
    code, output, _ = launch(capsys, "status", "run1")
    assert code == 0 and "v4-16" in output and "ACTIVE; v4-32 is asked for" in output
    code, _, errors = launch(capsys, "logs", "run1", "--worker=3")
    assert code == 2 and "run1 has 2 workers, no --worker=3; the last is --worker=1" in errors
    Folder().write(f"{job.folder}/logs/a001-w0003.log", b"of four workers\n")
    assert launch(capsys, "logs", "run1", "--worker=3")[:2] == (0, "of four workers\n")


CONFIG = ("--config=configs/digits.py", "--config.replicas=16", "--config.global_batch=64")


class Offering:
    """A backend that has every machine but one."""

    def require_offered(self, job):
        if job.tpu == "v4-64":
            raise UserError("v4-64 is not offered in z; choose another --zone or --tpu")


@pytest.mark.parametrize(
    "elastic, arguments, message",
    [
        ("", CONFIG, "--elastic= lacks the name of a machine; write e.g. --elastic=v3-1024,v3-512, the pref"),
        ("v4-32,,v4-16", CONFIG, "--elastic=v4-32,,v4-16 lacks the name of a machine; write e.g. --elastic="),
        ("v4-32,v4:2x2x4", CONFIG, "--elastic=v4-32,v4:2x2x4 names v4-32 twice; leave one out"),
        ("v4-16,v4-8", CONFIG, "--elastic=v4-16,v4-8 lacks v4-32, which run1 has asked for; add it: "
         "--elastic=v4-32,v4-16,v4-8"),
        ("v4-32,v4-12", CONFIG, "--elastic=v4-32,v4-12: "),
        ("v4-32,v55-8", CONFIG, "--elastic=v4-32,v55-8: v55-8 names no known TPU"),
        ("v4-32,tpu7x-64", CONFIG, "--elastic=v4-32,tpu7x-64: --backend=qr does not serve tpu7x-64; choose"),
        ("v4-32,v4-64", (*CONFIG, "--config.replicas=32"), "--elastic=v4-32,v4-64: v4-64 is not offered in z;"
         " choose another --zone or --tpu; or leave v4-64 out"),
        ("v4-32,v4-16", CONFIG[::2], "--elastic=v4-32,v4-16: config.replicas=0 of run1 lets its numbers "
         "change with the machine; submit it with --config.replicas=16, the devices of v4-32"),
        ("v4-32,v4-128", CONFIG, "--elastic=v4-32,v4-128: v4-128 has 64 chips: config.replicas=16 is not a "
         "multiple of the 64 devices"),
    ],
)  # fmt: skip
def test_a_list_that_is_impossible_is_one_line(job, monkeypatch, elastic, arguments, message):
    monkeypatch.chdir(ROOT)
    job = replace(job, backend="qr", arguments=arguments)
    with pytest.raises(UserError) as raised:
        wishes_of(job, Offering(), elastic, minutes=15.0, return_minutes=60.0)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value), raised.value


def test_the_numbers_of_each_machine_are_told(job, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = replace(job, arguments=CONFIG, wishes=())
    wishes = wishes_of(job, Offering(), "v4-32, v4:2x2x2,v4-8", minutes=15.0, return_minutes=60.0)
    assert wishes.numbers == NUMBERS and wishes.first == LARGE
    kept = wishes_of(replace(job, wishes=(LARGE, SMALL)), Offering(), None, minutes=1.0, return_minutes=0.0)
    assert list(kept.numbers) == [LARGE, SMALL]
    beside = job.again(tpu=LARGE)
    with pytest.raises(UserError, match="^--elastic=v4-16 lacks v4-32, which run1 has asked for; add it"):
        wishes_of(
            replace(job, tpu=MIDDLE, beside=beside), Offering(), MIDDLE, minutes=1.0, return_minutes=1.0
        )
    for elastic in (None, LARGE):
        assert not wishes_of(job, Offering(), elastic, minutes=1.0, return_minutes=1.0).is_choice


def test_the_command_line(job, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    jobs.remember(replace(job, backend="gke"))
    code, _, errors = launch(capsys, "watch", "run1", f"--elastic={LARGE},{MIDDLE}")
    assert code == 2 and errors.startswith("launch: run1 needs no watch: ") and errors.count("\n") == 1
    jobs.remember(replace(job, backend="mig", tpu="v5p-32", wishes=(), arguments=CONFIG))
    code, _, errors = launch(capsys, "watch", "run1", "--elastic=v5p-32", "--elastic-minutes=0")
    assert code == 2 and "--elastic_minutes=0: it must be above 0" in errors
    code, _, errors = launch(capsys, "watch", "run1", "--elastic=v5p-16,v4-8")
    assert code == 2 and errors.count("\n") == 1
    assert errors.startswith(
        "launch: --elastic=v5p-16,v4-8: --backend=mig does not serve v4-8; choose --back"
    )
    assert jobs.recall("run1").wishes == ()
