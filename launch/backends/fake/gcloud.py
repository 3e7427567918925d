"""What ``gcloud`` is on the fake service's machines: it deletes a queued resource, and no more."""

import sys

from launch.backends.fake.backend import client


def main(words: list[str]) -> int:
    """Returns the exit code of ``gcloud compute tpus queued-resources delete NAME --project=… --zone=…``."""
    if words[:4] != ["compute", "tpus", "queued-resources", "delete"]:
        print(f"fake gcloud: only queued-resources delete is known, not: {' '.join(words)}", file=sys.stderr)
        return 2
    given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    name = f"projects/{given['project']}/locations/{given['zone']}/queuedResources/{words[4]}"
    from google.cloud import tpu_v2

    wanted = tpu_v2.DeleteQueuedResourceRequest(name=name, force="--force" in words)
    client(start=False).delete_queued_resource(wanted, timeout=60)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
