#!/usr/bin/env bash
# A run on TPU VMs: rents a pod as a queued resource, runs `bert-jax pretrain` on all its workers, and does both
# again when the pod is taken away. SPEC is a copy of launch/run.env.
#
#   launch/tpu_pod.sh SPEC run      rent, wait, install, start, show worker 0's log; to the end of the run
#   launch/tpu_pod.sh SPEC status   of the pod and of the run
#   launch/tpu_pod.sh SPEC log      worker 0's log, followed
#   launch/tpu_pod.sh SPEC stop     the run saves and ends; the pod stays
#   launch/tpu_pod.sh SPEC delete   the pod; the run's files are in the bucket
#
# DRY_RUN=1 prints the commands and runs none of them. The run outlives this program and its connection: start it
# again to follow it. It ends with the run's own status (docs/reliability.md), and with 1 where the machines failed
# too often.
set -euo pipefail

readonly HERE=${BASH_SOURCE[0]%/*}
readonly POLL_SECONDS=${POLL_SECONDS:-30}
readonly PATIENCE=${PATIENCE:-60} # polls without an answer
readonly TRIES=5            # in a row, each of them shorter than
readonly LONG_ENOUGH=600    # seconds, which a fault that comes back at once does not last
readonly UV=uv==0.9.11      # brings Python 3.11: the image of a TPU VM has an older one

say() { printf 'tpu_pod: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 2
}
left_behind() { say "the pod $name is as it is, and costs money while it is ACTIVE: ${BASH_SOURCE[0]} $spec delete"; }

if [[ $# -ne 2 || ! $2 =~ ^(run|status|log|stop|delete)$ ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
readonly spec=$1
settings=$(python3 "$HERE/spec.py" "$spec") || exit 2
eval "$settings"
# shellcheck disable=SC2154  # all of these are of $settings
readonly name project zone shape image spot slices hosts line plan
# shellcheck disable=SC2206  # two words, or none
readonly shape_flags=($shape $spot)

scratch=$(mktemp -d)
readonly scratch
trap 'rm -rf "$scratch"' EXIT
trap 'say "interrupted; a run that was started goes on"; left_behind; exit 130' INT TERM

# --- gcloud ---------------------------------------------------------------------------------------------------

pods() { # VERB NAME [flags]: everything that is asked of Google Cloud
  local -r command=(gcloud compute tpus "$1" "$2" "$3" "--project=$project" "--zone=$zone" "${@:4}")
  if [[ ${DRY_RUN:-} ]]; then
    printf '%q ' "${command[@]}"
    printf '\n'
  else
    "${command[@]}"
  fi
}

look() { # sets `state` of the pod, NONE if there is none, and its `maker`
  local -r query=(queued-resources describe "$name" --format='value(state.state, tpu.nodeSpec[0].node.labels.maker)')
  if [[ ${DRY_RUN:-} ]]; then
    pods "${query[@]}"
    state=${imagined:-ACTIVE} maker=bert-jax
    return
  fi
  local answer
  local -i tries
  for ((tries = 0; tries < PATIENCE; tries++)); do
    if answer=$(pods "${query[@]}" 2>"$scratch/error"); then
      read -r state maker <<<"$answer"
      return
    elif grep -q NOT_FOUND "$scratch/error"; then
      state=NONE maker=
      return
    fi
    cat "$scratch/error" >&2
    sleep "$POLL_SECONDS"
  done
  left_behind
  fail "Google Cloud does not say how $name is; a run that was started goes on"
}

on() { # WORKERS COMMAND: in the shell of worker 0 of the first slice, or of all workers of all
  pods queued-resources ssh "$name" "--node=$1" "--worker=$1" --command="$2"
}

own() {
  [[ $maker == bert-jax ]] || fail "there is a pod $name in $zone that this script did not make: use another NAME"
}

create() { # unless it is there already
  look
  while [[ $state == SUSPENDING || $state == DELETING ]]; do
    say "$name: $state"
    sleep "$POLL_SECONDS"
    look
  done
  case $state in
    NONE) ;;
    SUSPENDED | FAILED) delete ;;
    *)
      own
      return
      ;;
  esac
  say "renting $slices x ${shape#--accelerator-type=} as $name in $zone"
  local -a nodes=("--node-id=$name")
  ((slices == 1)) || nodes=("--node-count=$slices" "--node-prefix=$name")
  if ! pods queued-resources create "$name" "${nodes[@]}" "${shape_flags[@]}" \
    "--runtime-version=$image" --labels=maker=bert-jax --quiet; then
    look
    [[ $state == NONE ]] || left_behind
    fail "Google Cloud refused the pod (see above); nothing was started"
  fi
  imagined=ACTIVE
}

wait_until_active() { # returns 1 if it was taken away before that
  local last=
  while look && [[ $state != ACTIVE ]]; do
    [[ $state == "$last" ]] || say "$name: $state"
    last=$state
    case $state in
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) sleep "$POLL_SECONDS" ;;
      *) return 1 ;;
    esac
  done
}

check_workers() {
  local -i slice found
  local node
  for ((slice = 0; slice < slices; slice++)); do
    node=$name
    ((slices == 1)) || node=$name-$slice
    if [[ ${DRY_RUN:-} ]]; then
      pods tpu-vm describe "$node" --format='value(networkEndpoints[].ipAddress)'
      continue
    fi
    found=$(pods tpu-vm describe "$node" --format='value(networkEndpoints[].ipAddress)' | tr ';' '\n' | grep -c .) || true
    if ((found != hosts)); then
      left_behind
      fail "$node has $found workers, where $shape should have $hosts"
    fi
  done
}

delete() {
  look
  if [[ $state == NONE ]]; then
    say "there is no pod $name in $zone"
    return
  fi
  own
  pods queued-resources delete "$name" --force --quiet
  imagined=NONE
}

# --- on the workers: source, run/log, run/pid, run/status and run/stopped are in the home folder -----------------

install() {
  [[ -z $(git -C "$HERE" status --porcelain) ]] || say "changes that are not committed do not go along"
  git -C "$HERE/.." archive --format=tar.gz --output="$scratch/source.tar.gz" HEAD
  pods queued-resources scp "$scratch/source.tar.gz" "$name:source.tar.gz" --node=all --worker=all --quiet || return 1
  # What is left of an earlier start has three minutes to leave.
  on all "set -e
    test ! -e run/pid || timeout 180 tail --follow --pid=\$(cat run/pid) /dev/null || kill -KILL \$(cat run/pid) || true
    rm -rf source && mkdir -p source run && tar -xzf source.tar.gz -C source
    python3 -m pip install --quiet --user $UV
    ~/.local/bin/uv venv --quiet --clear --python 3.11 venv
    ~/.local/bin/uv pip install --quiet --python venv/bin/python --constraint source/constraints.txt './source[gcs,tpu]'"
}

start() { # only the last command is put behind, or the connection would stay until the run ends
  local -r run="$line & echo \$! >../run/pid; wait \$!; echo \$? >../run/status"
  on all "cd source && rm -f ../run/status ../run/stopped && export PATH=\$HOME/venv/bin:\$PATH || exit
    nohup setsid bash -c $(printf %q "$run") >../run/log 2>&1 </dev/null &"
}

is_going_on() { # prints yes or no; returns 1 if worker 0 does not answer
  # shellcheck disable=SC2016  # expanded there
  local -r question='if kill -0 $(cat run/pid); then echo yes; else echo no; fi 2>/dev/null'
  [[ ! ${DRY_RUN:-} ]] || return 0
  on 0 "$question"
}

follow() { # shows worker 0's log; sets `outcome` to the run's status, or GONE
  local -i lost=0 seen
  # The status is written a moment after the process is gone.
  local -r ended='for _ in {1..50}; do test -e run/status && break; sleep 0.1; done
    cat run/status; ls run/stopped 2>/dev/null; true'
  : >"$scratch/log"
  while :; do
    seen=$(wc -l <"$scratch/log")
    if on 0 "tail --lines=+$((seen + 1)) --follow --pid=\$(cat run/pid) run/log" | tee -a "$scratch/log" &&
      outcome=$(on 0 "$ended"); then
      if [[ ${DRY_RUN:-} ]]; then
        printf '%s\n' "$outcome"
        outcome=0
      fi
      [[ ! $outcome =~ ^[0-9] ]] || return 0
    fi
    look
    if [[ $state != ACTIVE ]]; then
      outcome=GONE
      return 0
    fi
    (($(wc -l <"$scratch/log") == seen)) || lost=0
    if ((++lost > PATIENCE)); then
      left_behind
      say "worker 0 does not answer; a run that was started goes on"
      exit 1
    fi
    say "the connection was lost; trying again ($lost of $PATIENCE)"
    sleep "$POLL_SECONDS"
  done
}

# --- verbs ----------------------------------------------------------------------------------------------------

run() {
  local -i began tries=0
  local going
  imagined=NONE
  say "on each worker: $line"
  say "what it takes, before renting: $plan"
  while :; do
    began=$SECONDS outcome=GONE
    create
    if wait_until_active; then
      check_workers
      outcome=UNREACHED
      if going=$(is_going_on); then
        if [[ $going == yes ]]; then
          say "it is going on already; this is its log"
          follow
        elif install && start; then
          follow
        fi
      fi
    fi
    case $outcome in
      0)
        say "the run has come to its end"
        delete
        return 0
        ;;
      2)
        say "the run was refused (see above): mend it, and run again"
        left_behind
        return 2
        ;;
      75*stopped*)
        say "stopped, and saved"
        left_behind
        return 75
        ;;
      GONE) say "$name was taken away: $state" ;;
      UNREACHED) say "not all workers of $name could be prepared" ;;
      *) say "the run ended with status $outcome; it goes on from its last checkpoint" ;;
    esac
    ((SECONDS - began < LONG_ENOUGH)) || tries=0
    if ((++tries >= TRIES)); then
      say "that was the ${TRIES}th time in a row; giving up"
      left_behind
      return 1
    fi
    sleep "$POLL_SECONDS"
  done
}

status() {
  look
  say "$name: $state"
  # shellcheck disable=SC2016
  [[ $state != ACTIVE ]] || on 0 'tail -n 1 run/log; if test -e run/status; then echo ended with status $(cat run/status); else echo going on; fi'
}

log() {
  follow
  say "ended with $outcome"
}

stop() {
  # shellcheck disable=SC2016
  on all 'touch run/stopped; kill -TERM $(cat run/pid)'
}

"$2"
