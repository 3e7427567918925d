"""The figures of hand-written runs, against numbers computed on paper."""

import pytest
from report_runs import config, eventful_journal, metrics, plan, summary, write_run

from efficientnet_pod.models.registry import NETWORKS, network_named
from efficientnet_pod.optim.optimizers import OPTIMIZERS
from efficientnet_pod.report.figures import (
    Level,
    cost_of,
    evaluations,
    first_reaching,
    images_per_second,
    levels,
    peak,
    run_seconds,
    shares_of_time,
)
from efficientnet_pod.report.head import description, head_of
from efficientnet_pod.report.incidents import incidents, tally
from efficientnet_pod.report.records import read_run_records
from efficientnet_pod.report.sections.settings import plan as plan_section
from efficientnet_pod.report.side_by_side import run_of
from efficientnet_pod.report.words import optimizer_title, thinned
from efficientnet_pod.workdir.journal import starts


def test_time_to_accuracy_with_and_without_evaluation(tmp_path):
    timed = evaluations(read_run_records(write_run(tmp_path)))
    assert [evaluation.with_evaluation for evaluation in timed] == [110, 220, 330, 440]
    assert [evaluation.training_only for evaluation in timed] == [100, 200, 300, 400]
    for level, with_evaluation, training_only in ((0.5, 110, 100), (0.8, 220, 200), (0.85, 330, 300)):
        first = first_reaching(timed, level)
        assert first and (first.with_evaluation, first.training_only) == (with_evaluation, training_only)
    assert first_reaching(timed, 0.951) is None
    top5 = first_reaching(timed, 0.93, "top5")
    assert top5 and top5.with_evaluation == 220


def test_the_peak_is_the_first_of_the_highest(tmp_path):
    rows = metrics()
    rows[-1]["top1"] = 0.95
    best = peak(evaluations(read_run_records(write_run(tmp_path, metrics=rows))))
    assert best and (best.step, best.with_evaluation) == (75, 330)
    assert peak([]) is None


def test_levels_are_the_ten_highest_that_are_reached_and_the_marks_of_imagenet(tmp_path):
    timed = evaluations(read_run_records(write_run(tmp_path)))
    ten = [0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert [level.rate for level in levels([timed], num_classes=10)] == ten
    with_marks = levels([timed], num_classes=1000)
    assert Level("top1", 0.759, "MLPerf's mark") in with_marks
    assert (with_marks[-1].kind, with_marks[-1].rate) == ("top5", 0.93)
    assert levels([[]], num_classes=None) == []


@pytest.mark.parametrize(
    "kind, devices, usd, spot",
    [
        ("TPU v3", 1024, (1024.0, 1024.0), (307.2, 337.92)),  # two cores are a chip
        ("TPU v5 lite", 8, (9.6, 13.728), (1.95941, 6.24)),
        ("NVIDIA H100 80GB HBM3", 8, (8 * 3.99, 8 * 3.99), None),
        ("cpu", 8, None, None),
        ("TPU of tomorrow", 8, None, None),
    ],
)
def test_device_hours_and_price_of_an_hour(tmp_path, kind, devices, usd, spot):
    hour = {"total_seconds": 3500.0, "compile_seconds": 100.0, "devices": {"count": devices, "kind": kind}}
    records = read_run_records(write_run(tmp_path, summary=summary(**hour)))
    cost = cost_of(records)
    assert cost.seconds == 3600 and cost.device_hours == devices
    for price, dollars in ((cost.usd, usd), (cost.usd_spot, spot)):
        found = price and (price.least, price.most)
        assert found == (None if dollars is None else pytest.approx(dollars, rel=1e-4))
    price = head_of(run_of(records)).facts[-1]
    assert price.name == "Price" and price.value.startswith("none known" if usd is None else "$")


def test_the_price_is_for_the_time_of_all_starts_where_there_is_a_journal(tmp_path):
    cost = cost_of(read_run_records(write_run(tmp_path, journal=eventful_journal())))
    assert cost.seconds == 300 + 400 + 200 + 100 and cost.device_hours == pytest.approx(4 * 1000 / 3600)


def test_shares_of_time_as_recorded_or_computed(tmp_path):
    shares, source = shares_of_time(read_run_records(write_run(tmp_path / "a")))
    assert "computed" in source
    assert shares == pytest.approx(
        {"training": 360, "waiting for input": 40, "evaluating": 40, "compiling": 60, "other": 1}
    )
    seconds_of = {"training": 300.0, "waiting_for_input": 5.0, "evaluating": 40.0, "compiling": 60.0}
    recorded = write_run(tmp_path / "b", summary=summary(seconds_of=seconds_of | {"saving": 2.0}))
    shares, source = shares_of_time(read_run_records(recorded))
    assert source == "as recorded" and sum(shares.values()) == 407 and shares["waiting for input"] == 5


def test_without_a_summary_rate_and_time_come_from_the_rows(tmp_path):
    records = read_run_records(write_run(tmp_path, summary=None))
    assert images_per_second(records) == 25 and run_seconds(records) == 440
    cost = cost_of(records)
    assert cost.seconds == 440 and "compilation is not recorded" in cost.basis
    assert (cost.devices, cost.kind) == (4, "cpu")


def test_the_head_says_what_the_run_is(tmp_path):
    head = head_of(run_of(read_run_records(write_run(tmp_path / "digits"))))
    assert head.what == "EfficientNet-B0 on digits, 4 × cpu, 1 host; LARS, 100 images a step, 10 epochs"
    facts = {fact.name: (fact.value, fact.detail) for fact in head.facts}
    assert facts["Top-1, final"] == ("90.00 %", "90 of 100 images")
    assert facts["Top-1, best"] == ("95.00 %", "first at epoch 7.50, after 5 min 30 s")
    assert facts["Time"] == ("7 min 21 s", "training and evaluation, after 1 min of compilation")
    assert facts["Images a second"] == ("25", "6.25 per device, 10.0 % of the time without input")


def test_what_a_run_survived():
    journal = eventful_journal()
    assert [start.seconds for start in starts(journal)] == [300, 400, 200, 100]
    assert [start.resumed for start in starts(journal)] == [False, True, True, True]
    met = {plural: times for (_, plural), times in tally(journal).items()}
    assert met == {
        "resumes": 3,
        "orderly stops": 1,
        "ends without a word": 1,
        "failures": 1,
        "rewinds": 1,
        "skipped steps": 2,
        "skipped images": 1,
        "quarantined checkpoints": 1,
    }
    lines = [(incident.step, incident.what, incident.detail) for incident in incidents(journal)]
    assert lines[:4] == [
        (0, "Started", "4 devices of kind cpu, 1 host"),
        (11, "2 steps skipped", "not finite: step 11, 12"),
        (20, "1 image skipped", "n01/a.jpeg"),
        (25, "Ended without a word", "killed, or the machine was lost; this was its last event"),
    ]
    assert lines[6:9] == [
        (60, "Rewound", "to step 50, and on with other images"),
        (60, "Failed", "loss is nan"),
        (50, "Resumed", "4 devices of kind cpu, 1 host"),
    ]
    assert lines[-1] == (100, "Complete", "")
    assert starts([]) == [] and incidents([]) == []


def test_many_skipped_steps_are_one_line():
    journal = [{"kind": "skipped_step", "step": step} for step in range(1, 2001)]
    (incident,) = incidents(journal)
    assert incident.what == "2,000 steps skipped" and incident.detail.endswith("4, 5 and 1,995 more")


def test_many_rows_are_thinned_with_the_last_among_them():
    assert thinned(list(range(10)), 4) == ([0, 3, 6, 9], 3) and thinned([], 4) == ([], 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_one_title_everywhere(tmp_path, name):
    records = read_run_records(write_run(tmp_path, config=config(model={"name": name})))
    assert description(records).startswith(f"{network_named(name).title} on digits, ")


def test_optimizers_have_the_names_of_their_authors():
    assert [*map(optimizer_title, OPTIMIZERS)] == ["AdamW", "LAMB", "LARS", "RMSProp", "SGD"]
    assert optimizer_title("adam") == "adam"


def test_plans_and_configs_of_any_shape_are_taken_calmly(tmp_path):
    odd = plan(num_replicas="many", total_steps=None, phases={"a": 1}, warnings="none", recipe=[1, 2])
    folder = write_run(tmp_path, plan=odd, config=config(model="b0", epochs="ten"), summary={"final": 3})
    head = head_of(run_of(read_run_records(folder)))
    assert "of another version" in " ".join(head.notes)


def test_the_plan_says_when_a_device_computes_several_replicas(tmp_path):
    numbers = {"num_replicas": 1024, "num_devices": 8, "micro_batches": 64, "device_kind": "TPU v3"}
    folder = write_run(tmp_path, plan=plan(**numbers), summary={})
    blocks = plan_section([run_of(read_run_records(folder))]).blocks
    (devices,) = [row[1] for block in blocks for row in getattr(block, "rows", ()) if row[0] == "devices"]
    assert "1 host, 1,024 replicas in 64 micro-batches a step" in devices
