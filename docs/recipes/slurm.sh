#!/usr/bin/env bash
#SBATCH --job-name=reviews
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=01:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# The same command starts the run and goes on with it.
command=(train reviews.csv --model minilm --batch-size 32 --out runs/reviews --resume)

# One process a GPU, each a child of srun: so each of them gets the signal.
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29500
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec dongu "$@"' - "${command[@]}"
code=$?

if [ "$code" -eq 143 ]; then # the time was up and the state is saved: back into the queue
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
