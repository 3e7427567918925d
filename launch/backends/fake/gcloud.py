"""The ``gcloud`` of the fake service's machines; its one command deletes a queued resource."""

import sys

from google.cloud import tpu_v2

from launch.backends.fake.backend import running_client


def main(words: list[str]) -> int:
    """Returns the exit code of ``gcloud compute tpus queued-resources delete NAME --project=… --zone=…``."""
    if words[:4] != ["compute", "tpus", "queued-resources", "delete"]:
        print(f"fake gcloud: only queued-resources delete is known, not: {' '.join(words)}", file=sys.stderr)
        return 2
    flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    name = f"projects/{flags['project']}/locations/{flags['zone']}/queuedResources/{words[4]}"
    deletion = tpu_v2.DeleteQueuedResourceRequest(name=name, force="--force" in words)
    running_client(start=False).delete_queued_resource(deletion, timeout=60)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
