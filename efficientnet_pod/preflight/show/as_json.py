"""Owns the estimate as JSON, for other programs."""

import dataclasses
from typing import Any

from efficientnet_pod.preflight.estimate import Estimate, StepEstimate
from efficientnet_pod.preflight.program.collectives import Collective


def as_json(found: Estimate) -> dict[str, Any]:
    """Returns plain values; what is not known is null.

    Everything under a name with ``estimated`` is an estimate, and so is what follows from it: images/s,
    hours, dollars. Bytes are of one replica.
    """
    target, plan, train = found.target, found.run.plan, found.train
    return {
        "topology": target.name,
        "chip": target.chip.title,
        "num_replicas": target.replicas,
        "num_chips": target.chips,
        "num_hosts": target.hosts,
        "global_batch": train.images,
        "per_replica_batch": train.images // target.replicas,
        "bn_group_size": plan.recipe.bn_group_size,
        **_step(train),
        "fits": found.fits,
        "hbm_limit_bytes": found.hbm_limit,
        "programs": [{"name": step.name, "fits": found.has_room(step)} | _step(step) for step in found.steps],
        "measured_step_ms": _ms(found.measured.get(train.name)),
        "images_per_second": found.images_per_second,
        "steps": plan.total_steps,
        "evaluations": found.evaluations,
        "hours": found.hours,
        "train_hours": found.train_hours,
        "eval_hours": found.eval_hours,
        "core_hours": None if found.hours is None else found.hours * target.replicas,
        "usd": found.usd(),
        "usd_spot": found.usd(spot=True),
        "host_cores": found.host_cores,
        "peak_lr": plan.peak_lr,
        "warnings": list(plan.warnings),
        "sources": target.chip.sources,
        "compile_seconds": found.compilation.seconds,
        "from_cache": found.compilation.from_cache,
    }


def _step(step: StepEstimate) -> dict[str, Any]:
    memory = step.compiled.said.memory
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
            _collective(each, seconds)
            for each, seconds in zip(step.program.collectives, step.collective_seconds, strict=True)
        ],
    }


def _collective(each: Collective, seconds: float | None) -> dict[str, Any]:
    return {
        "op": each.op,
        "bytes": each.bytes,
        "group_size": each.group_size,
        "purpose": each.purpose,
        "purposes": dict(each.purposes),
        "num_groups": each.num_groups,
        "count": each.count,
        "strategy": each.strategy,
        "estimated_ms": _ms(seconds),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
