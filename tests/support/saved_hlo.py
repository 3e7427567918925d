"""Programs as compilers wrote them, kept in tests/files; run as a script, it compiles and keeps them anew.

It needs libtpu: ``JAX_PLATFORMS=cpu python tests/support/saved_hlo.py``.
"""

import gzip
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DATA = Path(__file__).parents[1] / "files"


@cache
def read_hlo(name: str) -> str:
    """Returns the text of ``tests/files/<name>.hlo`` (by hand) or ``<name>.hlo.gz`` (by a compiler)."""
    by_hand = DATA / f"{name}.hlo"
    if by_hand.exists():
        return by_hand.read_text()
    return gzip.decompress((DATA / f"{name}.hlo.gz").read_bytes()).decode()


def _shortened(text: str) -> str:
    """Returns the program without paths of this machine and without what no reader asks for."""
    text = re.sub(r'"[^"\n]*/site-packages/', '"/site-packages/', text)
    text = re.sub(r'"[^"\n]*/(efficientnet_pod|tests)/', r'"/\1/', text)
    text = re.sub(r" (end_line|column|end_column)=\d+", "", text)
    text = re.sub(r', "?backend_config=\{"flag_configs":\[\],"scoped_memory_configs":\[\].*', "", text)
    text = re.sub(
        r',"scoped_memory_configs":\[\],"used_scoped_memory_configs":[^\n]*?"retry_config"', "", text
    )
    return re.sub(r", sharding=\{[^}]*\}", "", text)


def _tiny_train_step(devices: list[Any], bn_group_size: int) -> Any:
    """Returns the lowered train step of the tiny network: four images a replica, BN groups as asked for."""
    import recipes
    import tiny

    from efficientnet_pod.pod.mesh import create_mesh
    from efficientnet_pod.recipe.plan import resolve
    from efficientnet_pod.recipe.reading import read_recipe
    from efficientnet_pod.run import run

    run.create_network = tiny.tiny_network
    config = recipes.load("supercomputer.py")
    config["global_batch"], config["bn_group_size"] = 4 * len(devices), bn_group_size
    config["data"]["image_size"] = tiny.SIZE
    recipe = read_recipe(config)
    plan = resolve(
        recipe,
        num_train=10_000,
        num_eval=1_000,
        num_classes=tiny.CLASSES,
        num_devices=len(devices),
        num_hosts=1,
        default_dtype="bfloat16",
    )
    model, variables, optimizer, learning_rate = run.build(plan)
    mesh = create_mesh(devices, bn_group_size)
    runtime: Any = SimpleNamespace(devices=devices, platform="")
    made = run.Run(runtime, None, plan, mesh, model, variables, optimizer, learning_rate)
    return made.lower_train_step(plan.phases[0])


def scanned(devices: list[Any]) -> Any:
    """Returns a lowered program: a loop of seven all-reduced gradients, then one of two branches."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    def step(w, batches, choice):
        def body(total, batch):
            loss = lambda w: lax.pmean(jnp.sum(jnp.square(jnp.tanh(batch @ w))), "replica")  # noqa: E731
            gradient = jax.grad(loss)(w)
            return lax.optimization_barrier(total + gradient / (1 + jnp.max(gradient))), None

        total, _ = lax.scan(body, jnp.zeros_like(w), batches)
        return lax.cond(choice[0] > 0, lambda g: jnp.tanh(g @ g) @ g, lambda g: g * 2, total)

    mesh = Mesh(np.array(devices), ("replica",))
    everywhere, cut = PartitionSpec(), PartitionSpec(None, "replica")

    def shape(sizes, spec, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, spec))

    mapped = jax.shard_map(step, mesh=mesh, in_specs=(everywhere, cut, everywhere), out_specs=everywhere)
    batches = shape((7, 64 * len(devices), 256), cut)
    return jax.jit(mapped).lower(shape((256, 256), everywhere), batches, shape((1,), everywhere, jnp.int32))


def _main() -> None:
    from jax.experimental import topologies

    v3, v5e = (
        list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
        for name in ("v3:2x2", "v5e:2x4")
    )
    programs = {
        "tiny_v3": lambda: _tiny_train_step(v3, 4),
        "scan_v3": lambda: scanned(v3),
        "scan_v5e": lambda: scanned(v5e),
    }
    DATA.mkdir(exist_ok=True)
    for name in sys.argv[1:] or programs:
        compiled = programs[name]().compile()
        with open(DATA / f"{name}.hlo.gz", "wb") as file:
            file.write(gzip.compress(_shortened(compiled.as_text()).encode(), 9, mtime=0))
        print(name, compiled.memory_analysis())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    _main()
