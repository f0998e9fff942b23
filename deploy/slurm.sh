#!/usr/bin/env bash
# The road on the nodes of a Slurm allocation: sbatch deploy/slurm.sh
# The project's folder, with its .venv of `make install`, lies on a file system that all nodes see; in its params.yaml
# stands compute: {engine: ray, workers: 0}. Options given to sbatch win over those here (sbatch --nodes=8 ...). A job
# that was ended, or that lost a node, goes on where it was when it is submitted, or requeued, again.
#SBATCH --job-name=fairlead
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --output=fairlead-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill
# With GPUs, add: #SBATCH --gpus-per-node=1
set -euo pipefail

cd "${FAIRLEAD_PROJECT:-$SLURM_SUBMIT_DIR}"
if [[ ! -x .venv/bin/ray ]]; then
  echo "$PWD/.venv has no Ray: run 'make install' and '.venv/bin/pip install -c constraints.txt -e .[ray]' first" >&2
  exit 1
fi
export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0

# Others share the nodes: who joins this cluster needs its token, and two jobs on a node need two ports and two folders.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
port=$((20000 + SLURM_JOB_ID % 20000))
address=$(python -c 'import socket; print(socket.gethostbyname(socket.gethostname()))')
scratch=$(mktemp -d /tmp/ray-XXXXXX)
started=()

finish() {
  kill "${started[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 143' TERM INT

resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}")
if [[ -n ${SLURM_GPUS_ON_NODE:-} ]]; then
  resources+=(--num-gpus "$SLURM_GPUS_ON_NODE")
fi
ray start --head --block --node-ip-address "$address" --port "$port" --temp-dir "$scratch" \
  --include-dashboard=false --disable-usage-stats "${resources[@]}" >"$scratch/head.log" 2>&1 &
started+=($!)
for _ in $(seq 60); do
  ray status --address "$address:$port" >/dev/null 2>&1 && break
  sleep 1
done
if [[ $SLURM_JOB_NUM_NODES -gt 1 ]]; then
  srun --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --ntasks-per-node=1 \
    --exclude="$SLURMD_NODENAME" --kill-on-bad-exit=0 \
    ray start --block --address "$address:$port" --disable-usage-stats "${resources[@]}" &
  started+=($!)
fi

export RAY_ADDRESS="$address:$port"
make repro
