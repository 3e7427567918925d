"""The command ``preflight``: whether a recipe fits a machine that need not be here, its time and price."""

from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import parse_flags, values_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.preflight.quiet import quiet_libraries


def run_preflight(arguments: Sequence[str]) -> None:
    """Compiles a recipe for a machine and prints the report; raises `UserError` if it does not fit."""
    values = parse_flags("preflight", arguments, _define, config=True)
    if values.topology is None and not values.measure:
        raise UserError("preflight needs --topology, e.g. --topology=v3:16x32")
    if values.sweep and values.measure:
        raise UserError("--measure runs one recipe; leave out --sweep, or measure its points one by one")
    with quiet_libraries():  # JAX loads the CUDA plug-in at once, which complains that there is no driver
        from efficientnet_pod.preflight.preflight import Preflight

    Preflight(**values_of(values, Preflight)).run(values.config.to_dict())


def _define(values: flags.FlagValues) -> None:
    about = "Machine: v3:16x32 (chips of a TPU), v3-1024 (by its number of cores), cuda:h100x8, cpu:8."
    flags.DEFINE_string("topology", None, about, flag_values=values)
    flags.DEFINE_string("json", None, "File for the numbers, as JSON.", flag_values=values)
    about = "File for the train step's optimised HLO; other programs get files next to it, with their names."
    flags.DEFINE_string("hlo", None, about, flag_values=values)
    about = (
        "Values to compare, with the fastest and the cheapest marked: per_replica_batch=16,32,64 (the global "
        "batch follows), topology=v3:4x4,v3:8x8 or replicas=32,128 (the global batch stays)."
    )
    flags.DEFINE_string("sweep", None, about, flag_values=values)
    about = (
        "Zone of Google Cloud, e.g. europe-west4-a: the price there in place of the range over all regions."
    )
    flags.DEFINE_string("zone", "", about, flag_values=values)
    about = "Also run ten steps on the devices here, with random images."
    flags.DEFINE_bool("measure", False, about, flag_values=values)
    about = "Folder of programs compiled before; by default in this user's cache."
    flags.DEFINE_string("cache", None, about, flag_values=values)
