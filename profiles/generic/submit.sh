#!/usr/bin/env bash
# Submit a script to PBS and print its identifier: submit.sh THREADS MEGABYTES MINUTES GPUS SCRIPT.
set -euo pipefail
threads=$1 megabytes=$2 minutes=$3 gpus=$4 script=$5
chunk="select=1:ncpus=$threads:mem=${megabytes}mb"
[ "$gpus" = 0 ] || chunk+=":ngpus=$gpus"
mkdir -p .snakemake/pbs_logs
qsub -V -j oe -o .snakemake/pbs_logs -l "$chunk" -l "walltime=$((minutes / 60)):$((minutes % 60)):00" "$script"
