#!/bin/bash
# Runs on every worker: it finds the worker's place, installs the code, trains, starts again after exit code
# 42, and copies its log to the workdir. Set above: NAME WORKDIR FOLDER CODE SHA256 COMMIT HOSTS SLICES
# ATTEMPT HELD PYTHON EXTRAS TEAR_DOWN PROJECT ZONE, and the array ARGUMENTS.
set -uo pipefail

LOG_SECONDS="${LOG_SECONDS:-60}"
RETRY_SECONDS="${RETRY_SECONDS:-5}"
FAILURE_SECONDS="${FAILURE_SECONDS:-0}" # before a failure is reported
TURN_SECONDS="${TURN_SECONDS:-1800}" # without a turn these machines are given back
METADATA_URL="${METADATA_URL:-http://metadata.google.internal/computeMetadata/v1}"
HOME="${HOME:-/root}" # a start-up script may run without one
export HOME
PATH="$PATH:/snap/bin" # where TPU machines have gcloud
TRAINER="${TRAINER:-/opt/trainer/bin/python}" # where an image of `launch image build` has all packages
[ -x "$PYTHON" ] || [ ! -x "$TRAINER" ] || PYTHON="$TRAINER"

metadata() { # prints an attribute of this machine; nothing if there is none
  curl --silent --fail --max-time 10 --retry 3 -H 'Metadata-Flavor: Google' \
    "$METADATA_URL/instance/attributes/$1" 2>/dev/null
}

tpu_env() { # prints a value of the TPU's description, whose lines look like MEGASCALE_SLICE_ID: '0'
  metadata tpu-env | sed -n "s/^$1: *'\{0,1\}\([^']*\)'\{0,1\} *\$/\1/p"
}

copy() { # FROM TO, one of which is in a bucket
  if command -v gcloud >/dev/null; then
    gcloud storage cp --quiet "$1" "$2"
    return
  fi
  # An image of `launch image build` has Google's library in place of gcloud.
  "$PYTHON" - "$1" "$2" <<'END_OF_COPY'
import sys
from google.cloud.storage import Blob, Client

client, (source, target) = Client(), sys.argv[1:]
if source.startswith("gs://"):
    Blob.from_string(source, client).download_to_filename(target)
else:
    Blob.from_string(target, client).upload_from_filename(source)
END_OF_COPY
}

get() { # FROM TO
  case "$1" in
    gs://*) copy "$1" "$2" ;;
    *) cp "$1" "$2" ;;
  esac
}

put() { # FROM TO
  case "$2" in
    gs://*) copy "$1" "$2" >/dev/null 2>&1 ;;
    *) mkdir -p "$(dirname "$2")" && cp "$1" "$2.$$" && mv "$2.$$" "$2" ;;
  esac
}

marked() { # WORD: whether `launch watch` has left this mark for the attempt
  get "$FOLDER/ended/$(printf 'a%03d' "$ATTEMPT")-$1" "$SCRATCH/mark" >/dev/null 2>&1
}

say() { echo "launch: worker $INDEX: $*"; }

# This worker's place among the others, from its scheduler or from the machine.
WORKER="${TPU_WORKER_ID:-${SKYPILOT_NODE_RANK:-${SLURM_PROCID:-}}}"
PEERS="${TPU_WORKER_HOSTNAMES:-${SKYPILOT_NODE_IPS:-${SLURM_JOB_NODELIST:-}}}"
if [ -z "$WORKER" ]; then
  WORKER="$(metadata agent-worker-number)"
  PEERS="$(metadata worker-network-endpoints)"
  if [ -z "$WORKER" ]; then # in an instance group JAX does not find its place by itself
    WORKER="$(tpu_env TPU_WORKER_ID)"
    FIRST="${PEERS%%,*}" # a name, or name:number:address
    [ -z "$WORKER" ] || COORDINATOR="${COORDINATOR:-${FIRST##*:}:8482}"
  fi
fi
if [ -z "$WORKER" ] && [ "$HOSTS" -gt 1 ]; then # two workers with number 0 would spoil the run
  echo "launch: this worker's number is known neither to the environment nor to $METADATA_URL" >&2
  exit 1
fi
SLICE="${MEGASCALE_SLICE_ID:-}"
[ -n "$SLICE" ] || [ "$SLICES" = 1 ] || SLICE="$(tpu_env MEGASCALE_SLICE_ID)"
INDEX=$((${SLICE:-0} * (HOSTS / SLICES) + ${WORKER:-0}))

if [ -n "${SCRATCH:-}" ]; then mkdir -p "$SCRATCH"; else SCRATCH="$(mktemp -d)"; fi
LABEL="$(printf 'a%03d-w%04d' "$ATTEMPT" "$INDEX")"
LOG="$SCRATCH/$LABEL.log"
exec > >(tee -a "$LOG") 2>&1

finish() { # CODE: leaves the exit code where `launch watch` looks for it
  say "ended with exit code $1"
  [ -z "${UPLOADER:-}" ] || kill "$UPLOADER" 2>/dev/null
  sleep 0.2 # for tee
  put "$LOG" "$FOLDER/logs/$LABEL.log"
  case "$1" in
    0 | 2) ;;
    *) [ -n "$STOPPED" ] || sleep "$FAILURE_SECONDS" ;; # so that the service sees first which machine was taken
  esac
  # After a signal to stop the run has not ended: the next attempt continues it. Only `launch watch` waits for
  # the code, if it has asked for the stop.
  if [ -z "$STOPPED" ] || marked stop; then
    echo "$1" >"$SCRATCH/ended"
    put "$SCRATCH/ended" "$FOLDER/ended/$LABEL"
    if [ "$INDEX" = 0 ] && [ -n "$TEAR_DOWN" ]; then
      sleep "$LOG_SECONDS" # until the other workers have copied their last lines
      # shellcheck disable=SC2086 # two words of gcloud
      case "$TEAR_DOWN" in
        tpus*) gcloud compute $TEAR_DOWN delete "$NAME" --project="$PROJECT" --zone="$ZONE" --force --async --quiet ;;
        *) gcloud compute $TEAR_DOWN delete "$NAME" --project="$PROJECT" --zone="$ZONE" --quiet ;;
      esac
    fi
  fi
  exit "$1"
}

STOPPED=""
CHILD=""
HEARD=""
# shellcheck disable=SC2329 # called by the trap
on_stop() {
  STOPPED=yes
  HEARD=yes
  [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null
}
trap on_stop TERM INT

upload() {
  while sleep "$LOG_SECONDS" && kill -0 $$ 2>/dev/null; do
    put "$LOG" "$FOLDER/logs/$LABEL.log"
    if [ "$INDEX" = 0 ] && marked stop; then # its trainer tells the others
      kill -TERM $$
      return
    fi
  done
}
upload &
UPLOADER=$!

note() { # TEXT: says what is wrong with this machine, also to `launch watch`
  say "$1"
  echo "$1" >>"$SCRATCH/note"
  put "$SCRATCH/note" "$FOLDER/notes/$LABEL"
}

check_clock() { # compares this clock with that of the metadata server, which names its second in each answer
  local before after theirs least=-999999999 most=999999999
  for _ in 1 2 3; do # each at another part of the second
    before="$(date +%s%3N)"
    theirs="$(curl --silent --max-time 2 --output /dev/null --dump-header - -H 'Metadata-Flavor: Google' \
      "$METADATA_URL/instance/attributes/" 2>/dev/null | sed -n 's/^[Dd]ate: *//p' | tr -d '\r')"
    after="$(date +%s%3N)"
    theirs="$(date -d "${theirs:-nothing}" +%s 2>/dev/null)000" || return 0
    [ $((before - theirs - 1000)) -le "$least" ] || least=$((before - theirs - 1000))
    [ $((after - theirs)) -ge "$most" ] || most=$((after - theirs))
    if [ "$least" -gt -2000 ] && [ "$most" -lt 2000 ]; then return; fi
    sleep 0.35
  done
  local way=ahead ahead=$(((least + most) / 2))
  if [ "$least" -lt 2000 ] && [ "$most" -gt -2000 ]; then return; fi # it cannot be told
  [ "$ahead" -ge 0 ] || way=behind ahead=$((-ahead))
  note "its clock is about $(((ahead + 500) / 1000)) s $way of the metadata server's; let chrony or NTP set it: hosts' logs do not line up, and credentials may be refused"
}

install_code() {
  mkdir -p "$SCRATCH/code" || return
  get "$FOLDER/$CODE" "$SCRATCH/code.tar.gz" || return
  if [ -n "$SHA256" ]; then
    echo "$SHA256  $SCRATCH/code.tar.gz" | sha256sum --check --quiet || return
  fi
  tar -xzf "$SCRATCH/code.tar.gz" -C "$SCRATCH/code" || return
  cd "$SCRATCH/code" || return
  if [ -x "$PYTHON" ]; then # an interpreter with all packages; a project is sent with the trainer
    PYTHON_BIN="$PYTHON"
    [ ! -d .trainer ] || "$PYTHON" -m zipfile -e .trainer/*.whl "$SCRATCH/trainer"
    return
  fi
  local pins=constraints-3.12.txt trainer=(-e ".[$EXTRAS]")
  [ "$PYTHON" != 3.11 ] || pins=constraints-3.11.txt
  if [ -d .trainer ]; then # a project, which is sent with the trainer
    pins=.trainer/constraints.txt trainer=(.trainer/*.whl)
    trainer=("${trainer[0]}[$EXTRAS]")
  fi
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv || true
  PATH="$HOME/.local/bin:$PATH"
  if command -v uv >/dev/null; then
    uv venv --quiet --python "$PYTHON" "$SCRATCH/venv" &&
      uv pip install --quiet --python "$SCRATCH/venv/bin/python" -c "$pins" "${trainer[@]}" || return
  else
    "python$PYTHON" -m venv "$SCRATCH/venv" &&
      "$SCRATCH/venv/bin/pip" install --quiet -c "$pins" "${trainer[@]}" || return
  fi
  PYTHON_BIN="$SCRATCH/venv/bin/python"
}

say "of $HOSTS, attempt $ATTEMPT, commit $COMMIT; peers ${PEERS//$'\n'/,}"
check_clock
for try in 1 2 3; do
  install_code && break
  say "could not install the code (try $try of 3)"
  [ "$try" = 3 ] && finish 1
  sleep "$RETRY_SECONDS"
done

if [ -n "$HELD" ]; then
  say "waits until the machines that train now have saved and ended"
  until marked turn; do
    [ -z "$STOPPED" ] || finish 1
    if [ "$SECONDS" -ge "$TURN_SECONDS" ]; then
      say "had no turn within $TURN_SECONDS s"
      finish 1
    fi
    sleep "$RETRY_SECONDS"
  done
fi

export EFFICIENTNET_POD_COMMIT="$COMMIT"
export PYTHONUNBUFFERED=1
export PYTHONPATH="$SCRATCH/code:$SCRATCH/trainer"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$WORKDIR/programs}"

# On TPU machines JAX finds the other hosts by itself; elsewhere flags name them.
WHERE=()
if [ -n "${COORDINATOR:-}" ] && [ "$HOSTS" -gt 1 ]; then
  WHERE=("--coordinator=$COORDINATOR" "--processes=$HOSTS" "--process=$INDEX")
fi

RESTARTED=""
while true; do
  "$PYTHON_BIN" -m efficientnet_pod train "${ARGUMENTS[@]}" "--workdir=$WORKDIR" "${WHERE[@]}" &
  CHILD=$!
  [ -z "$STOPPED" ] || kill -TERM "$CHILD" 2>/dev/null
  while true; do # a signal ends `wait` before the child has ended
    HEARD=""
    wait "$CHILD"
    code=$?
    [ -n "$HEARD" ] || break
  done
  CHILD=""
  if [ "$code" != 42 ] || [ -n "$STOPPED" ] || marked stop; then break; fi
  RESTARTED=yes
  say "checkpointed (exit code 42); starting again in $RETRY_SECONDS s"
  sleep "$RETRY_SECONDS"
  [ -z "$STOPPED" ] || break
done
# A command that has run before is no mistake of the user's: the other hosts did not come back.
[ "$code" = 2 ] && [ -n "$RESTARTED" ] && code=1
finish "$code"
