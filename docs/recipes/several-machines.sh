#!/usr/bin/env bash
#SBATCH --job-name=reviews
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or PyTorch cannot restart on several machines
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One agent a machine. It starts a process a GPU, restarts them all when one fails, and passes signals on.
srun torchrun --nnodes 1:2 --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 170 \
    -m dongu train reviews.csv --model minilm --batch-size 64 --out runs/reviews --resume
code=$?

# torchrun does not pass the exit code on: what has begun and not ended goes back into the queue, twenty times at most.
if [ "$code" -ne 0 ] && [ -f runs/reviews/run.json ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
