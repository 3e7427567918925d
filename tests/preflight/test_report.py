"""The estimate as a report and as JSON."""

import json
import re

import pytest
from skips import needs_libtpu
from tiny_preflight import KEYS, report

from efficientnet_pod.preflight.show.as_json import estimate_as_json


@needs_libtpu
def test_json_has_what_other_programs_read(v3):
    estimate, _ = v3
    document = json.loads(json.dumps(estimate_as_json(estimate)))
    assert document.keys() >= KEYS
    assert (document["topology"], document["num_replicas"], document["per_replica_batch"]) == ("v3:2x2", 8, 4)
    assert document["hbm_bytes"] == estimate.train.hbm_bytes and document["fits"] is True
    assert document["estimated_step_ms"] == pytest.approx(1000 * estimate.train.seconds)
    assert all(c.keys() >= {"op", "bytes", "group_size", "purpose"} for c in document["collectives"])
    assert [program["name"] for program in document["programs"]] == ["train", "eval"]


@needs_libtpu
def test_a_report_is_at_most_100_columns_and_gives_the_answer_first(v3):
    estimate, _ = v3
    lines = report(estimate).splitlines()
    assert lines[0].startswith("fits: 0.0") and "of 15.48 GiB a core; about " in lines[0]
    assert "a step (estimate)" in lines[0]
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "2 groups of 4 replicas, tiles of 1x2 chips" in text or "tiles of 2x1 chips" in text
    assert "BN: 2 groups of 4 replicas: each a connected tile of" in text
    assert "140 TFLOP/s and 825 GB/s" in text and "used here: 123 TFLOP/s and 900 GB/s a chip" in text
    assert "the learning rate rises after warm-up" in text  # 0.1 is above 0.081 × 32 / 256
    for column in ("temporaries", "computing", "memory floor", "most expensive", "of the step"):
        assert column in text
    dollars = r"\$[\d.,]+ to \$[\d.,]+"
    prices = rf"{dollars} on demand at \$2.00 to \$2.20 a chip-hour, {dollars} on spot at \$0.51 to \$0.56 "
    assert re.search(prices + r"\(cheapest in us-central1; --zone names one\)", text)
    assert "price: SkyPilot catalog v8, gcp/vms.csv, commit 006059e, read on 2026-11-29" in text
    assert "JAX no longer tests itself on TPU v3" in text
