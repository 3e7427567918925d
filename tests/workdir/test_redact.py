"""Secrets are blanked in texts, in tables, and in every file of a crashed run; other words are left."""

import json
import re
import time

import pytest
from pod_processes import STEPS_PER_EPOCH, run

from efficientnet_pod.workdir.redact import SECRETS, redact, redact_strings

CANARY = "c4n4ryQ7"

# Each with a canary, and what must be left of it.
TEXTS = [
    (f"HF_TOKEN={CANARY}", "HF_TOKEN="),
    (f"MY_TOKENS: {CANARY}", "MY_TOKENS: "),
    (f"{{'AWS_SECRET_ACCESS_KEY': 'a {CANARY} b'}}", "AWS_SECRET_ACCESS_KEY"),
    (f'{{"api_key": "{CANARY}"}}', "api_key"),
    (f"accessKeyId={CANARY}", "accessKeyId="),
    (f"WANDB_API_KEY={CANARY}(x,y;z&", "WANDB_API_KEY="),
    (f'db_password="it\'s {CANARY}"', "db_password="),
    (f'{{\\"password\\": \\"{CANARY}\\"}}', "password"),
    (f"b'CLIENT_SECRET': b'{CANARY}'", "CLIENT_SECRET"),
    (f"os.environ['MY_TOKEN'] = '{CANARY}'", "os.environ"),
    (f"cannot open: token={CANARY}", "cannot open: token="),
    (f"train --api-key {CANARY} --batch 3", "--batch 3"),
    (f"train --password={CANARY} --batch 3", "--batch 3"),
    (f"Authorization: Bearer {CANARY}", "Authorization: "),
    (f"{{'Authorization': 'Basic {CANARY}=='}}", "Authorization"),
    (f"with bearer {CANARY}", "with bearer "),
    (f"AIzaSy{CANARY}abcdefghijklmnopqrst", ""),
    (f"ya29.{CANARY}-_.x", ""),
    ("AKIAC4N4RYQ7C4N4RYQ7", ""),
    (f"hf_{CANARY}abcdefgh rest", "rest"),
    (f"github_pat_{CANARY}abcdefgh", ""),
    (f"ghp_{CANARY}abcdefgh", ""),
    (f"eyJhbGciOiJ.eyJzdWIiOi.{CANARY}", ""),
    (f"https://me:{CANARY}@host/path", "https://"),
    (f"gs+x://me:p/{CANARY}@host/path", "@host/path"),
    (f"https://h/b/o.jpg?X-Goog-Date=1&X-Goog-Signature={CANARY}&y=2 tail", "https://h/b/o.jpg? tail"),
    (f"'https://h/o?X-Amz-Credential={CANARY}%2F2026&X-Amz-Signature=0'", "https://h/o"),
    (f"https://h/o?Expires=1&Signature={CANARY}&AWSAccessKeyId={CANARY}", "https://h/o"),
    (f"https://h/o?sv=2026&sig={CANARY}%3D", "https://h/o"),
    (f"https://maps/o?key={CANARY}", "https://maps/o"),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY----- rest", "rest"),
    (f"-----BEGIN PRIVATE KEY-----\n{CANARY}", ""),
    (f'  File "/a/b.py", line 3, in f\n    load(key=name, token="{CANARY}")\nE: no', "load(key=name, token="),
    (f'  File "/a/b.py", line 3, in f\n    load(x)\nValueError: token={CANARY}\n    key={CANARY}', "load(x)"),
]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret.name)
def test_the_example_of_each_form_is_found_by_its_pattern_and_blanked(secret):
    assert re.search(secret.pattern, secret.example, re.DOTALL)
    assert "[redacted]" in redact(secret.example) and "hunter2" in secret.example.lower()
    assert "hunter2" not in redact(secret.example).lower()


@pytest.mark.parametrize(("text", "left"), TEXTS)
def test_secrets_are_blanked(text, left):
    blanked = redact(text)
    assert CANARY.lower() not in blanked.lower()
    assert "[redacted]" in blanked and left in blanked.replace("[redacted]", "")
    assert redact(blanked) == blanked


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'loss'",
        "expected keys: ['params', 'batch_stats']",
        "KeyboardInterrupt: stopped",
        "monkey: 3",
        "key = jax.random.key(0)",
        "classifier/kernel: saved (3, 3), wanted (5, 5)",
        "unexpected signature (3, 4)",
        "gs://bucket/run?generation=3",
        "git@github.com:owner/repository",
        "config.global_batch was 120, is 240; choose another --workdir",
        "hf_transfer is not installed",
        "tokenizer of the data set",
        "max(rows, key=lambda row: row['step'])",
        'Traceback (most recent call last):\n  File "/b.py", line 3, in f\n    b = max(rows, key=step_of)\n'
        '           ^^^\n  File "/c.py", line 4, in g\n    load(token=token, password=self.word)\nError: no',
    ],
)
def test_what_is_no_secret_is_left(text):
    assert redact(text) == text


def test_values_of_the_environment_are_blanked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    monkeypatch.setenv("SOME_TOKEN_TOO", f"{CANARY}-longer")
    monkeypatch.setenv("SHORT_KEY", "of")  # a word that texts have
    monkeypatch.setenv("PLAIN", "ordinary text")
    assert redact(f"got {CANARY}-longer of {CANARY}") == "got [redacted] of [redacted]"
    assert redact("ordinary text") == "ordinary text"


def test_tables_are_blanked_by_their_strings_and_names():
    table = {"api_key": CANARY, "list": [f"HF_TOKEN={CANARY}", ("x", 3)], "n": {"token": 3, "secret": ""}}
    assert redact_strings(table) == {
        "api_key": "[redacted]",
        "list": ["HF_TOKEN=[redacted]", ["x", 3]],
        "n": {"token": 3, "secret": ""},
    }


def test_a_long_text_takes_no_time():
    began = time.monotonic()
    redact("a" * 200_000 + "token" * 20_000 + "ab_cd-" * 50_000 + "key=" * 20_000 + "?x" * 50_000)
    assert time.monotonic() - began < 5


def test_no_file_or_line_of_a_crashed_run_holds_a_secret(tmp_path, monkeypatch):
    for name, value in {
        "CANARY_TOKEN": "c4n4ryQ7-of-the-environment",
        "AWS_SECRET_ACCESS_KEY": "c4n4ryQ7-of-the-cloud",
        "HF_TOKEN": "hf_c4n4ryQ7abcdefghijkl",
        "DB_PASSWORD": "c4n4ryQ7-of-the-database",
    }.items():
        monkeypatch.setenv(name, value)
    url = "https://me:c4n4ryQ7-pass@host/tfds?X-Goog-Expires=9&X-Goog-Signature=c4n4ryQ7beef"
    fields = {"log_steps": 1, "eval_epochs": 1 / STEPS_PER_EPOCH, "cpu_replicas": 1, "bn_group_size": 1}
    codes, output = run(tmp_path / "run", steps=2, fault="raise@step:2", data__data_dir=url, **fields)
    assert codes == [1] and "Traceback" in output and "top-1" in output, output
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path).parts[1] for path in files}
    assert {"config.json", "plan.json", "metrics.jsonl", "tensorboard", "checkpoints"} <= names
    for path in files:  # what was printed, too
        assert b"c4n4ryq7" not in path.read_bytes().lower(), path
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["data"]["data_dir"] == "https://[redacted]@host/tfds?[redacted]"
