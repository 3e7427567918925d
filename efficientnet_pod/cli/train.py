"""The command ``train``: a recipe trained in a workdir, which the same command resumes."""

from collections.abc import Sequence
from typing import Any

from efficientnet_pod.cli.flags import overrides_of, parse_flags
from efficientnet_pod.cli.host import define_hosts, joined
from efficientnet_pod.report.words import early_end


def run_train(arguments: Sequence[str]) -> None:
    """Trains the recipe that the flags name and prints its results, on host 0."""
    values = parse_flags("train", arguments, define_hosts, workdir=True, config=True)
    with joined(values) as (interrupt, peers):
        with interrupt.nothing_to_lose():  # these take seconds to import; a signal then counts already
            from efficientnet_pod.pod import hosts
            from efficientnet_pod.train.train import train_and_evaluate

        summary = train_and_evaluate(
            values.config.to_dict(),
            values.workdir,
            overrides=overrides_of(values),
            interrupt=interrupt,
            peers=peers,
        )
        if hosts.index() == 0:
            _print_summary(summary, values.workdir)


def _print_summary(summary: dict[str, Any], workdir: str) -> None:
    final, best, rate = summary["final"], summary["best"], summary["images_per_second"]
    hits = round(final["top1"] * final["images"])
    early = early_end(summary.get("ended_by"))
    end = f"\nended at epoch {final['epoch']:.2f}, {final['seconds']:.0f} s: {early}" if early else ""
    speed = ""
    if rate:
        speed = f", {rate:,.0f} images/s in training, {summary['input_wait']:.0%} of it without input"
    print(
        f"\ntop-1 {final['top1']:.2%} ({hits:,} of {final['images']:,} images), top-5 {final['top5']:.2%}; "
        f"best top-1 {best['top1']:.2%} at step {best['step']:,}\n"
        f"{summary['total_seconds']:.0f} s after {summary['compile_seconds']:.0f} s of compilation"
        f"{speed}{end}\nrecords in {workdir}: metrics.jsonl, summary.json, tensorboard/, checkpoints/"
    )
