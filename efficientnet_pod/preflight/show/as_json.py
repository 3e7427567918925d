"""The estimate as JSON, for other programs."""

import dataclasses
from typing import Any

from efficientnet_pod.pod.prices import Price, price_source
from efficientnet_pod.preflight.estimate import Estimate, StepEstimate


def estimate_as_json(estimate: Estimate) -> dict[str, Any]:
    """Returns an estimate as plain values; those that are not known are None.

    Names with ``estimated`` hold estimates, and so do images/s, hours and dollars, which follow from them.
    Bytes are of one replica. ``usd`` is the price in the zone, or in the cheapest region where none is
    given; ``usd_most`` is the price in the dearest one.
    """
    target, plan, train = estimate.target, estimate.run.plan, estimate.train
    return {
        "topology": target.name,
        "chip": target.chip.title,
        "num_devices": target.replicas,
        "num_replicas": plan.num_replicas,
        "num_chips": target.chips,
        "num_hosts": target.hosts,
        "global_batch": train.images * train.calls,
        "per_replica_batch": train.images * train.calls // plan.num_replicas,
        "micro_batches": plan.micro_batches,
        "bn_group_size": plan.recipe.bn_group_size,
        **_step(train),
        "estimated_step_ms": _ms(estimate.step_seconds(is_estimate=True)),
        "fits": estimate.fits,
        "hbm_limit_bytes": estimate.hbm_limit,
        "programs": [
            {"name": step.name, "fits": estimate.has_room(step)} | _step(step) for step in estimate.steps
        ],
        "measured_step_ms": _ms(estimate.measured.get(train.name)),
        "images_per_second": estimate.images_per_second,
        "steps": plan.total_steps,
        "evaluations": estimate.evaluations,
        "hours": estimate.hours,
        "train_hours": estimate.train_hours,
        "eval_hours": estimate.eval_hours,
        "core_hours": None if estimate.hours is None else estimate.hours * target.replicas,
        "zone": estimate.zone or None,
        **_prices("usd", estimate.usd()),
        **_prices("usd_spot", estimate.usd(spot=True)),
        "host_cores": estimate.host_cores,
        "peak_lr": plan.peak_lr,
        "warnings": list(plan.warnings),
        "sources": target.chip.sources | {"usd": price_source(target.chip)},
        "compile_seconds": estimate.compilation.seconds,
        "from_cache": estimate.compilation.from_cache,
    }


def _step(step: StepEstimate) -> dict[str, Any]:
    memory = step.compiled.output.memory
    return {
        "estimated_cycles": step.program.estimated_cycles,
        "estimated_compute_ms": _ms(step.compute_seconds),
        "estimated_communication_ms": _ms(step.communication_seconds),
        "estimated_step_ms": _ms(step.seconds),
        "estimate_basis": step.basis,
        "optimal_ms": _ms(step.optimal_seconds),
        "hbm_roofline_ms": _ms(step.hbm_seconds),
        "flop_roofline_ms": _ms(step.flop_seconds),
        "flops": step.flops,
        "hbm_bytes": step.hbm_bytes,
        "hbm_parts": dataclasses.asdict(memory) if memory else None,
        "waiting_bytes": step.waiting_bytes,
        "collectives": [
            {
                "op": collective.op,
                "bytes": collective.bytes,
                "group_size": collective.group_size,
                "purpose": collective.purpose,
                "purposes": dict(collective.purposes),
                "num_groups": len(collective.groups),
                "count": collective.count,
                "strategy": collective.strategy,
                "estimated_ms": _ms(seconds),
            }
            for collective, seconds in zip(step.program.collectives, step.collective_seconds, strict=True)
        ],
    }


def _prices(name: str, price: Price | None) -> dict[str, float | None]:
    return {name: price and price.least, f"{name}_most": price and price.most}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
