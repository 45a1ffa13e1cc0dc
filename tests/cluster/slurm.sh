#!/usr/bin/env bash
# A Slurm cluster of one node, on loopback, for tests: `slurm.sh install`, `start FOLDER`, `stop FOLDER`.
# Everything it writes lies in FOLDER; its users put FOLDER/bin first on their PATH. It needs root, and Debian's packages.
set -euo pipefail

install() {
    # One at a time: tests run side by side, and would find each other's packages half installed.
    exec 9< "${BASH_SOURCE[0]}"
    flock 9
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    [ "$(id -u)" = 0 ] || { echo "slurm-wlm and munge are missing, and only root can install them" >&2; exit 1; }
    command -v apt-get >/dev/null || { echo "slurm-wlm and munge are missing, and this is no Debian" >&2; exit 1; }
    # Installing starts services nobody wants here; a container has none to start.
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --quiet=2 --yes --no-install-recommends slurm-wlm munge && return
    apt-get update --quiet=2
    apt-get install --quiet=2 --yes --no-install-recommends slurm-wlm munge
}

free_ports() {
    python3 -c 'import socket
held = [socket.socket() for _ in range(2)]
[one.bind(("127.0.0.1", 0)) for one in held]
print(*(one.getsockname()[1] for one in held))'
}

configure() {
    local folder=$1 host controller node
    host=$(hostname -s)
    read -r controller node < <(free_ports)
    cat > "$folder/slurm.conf" <<CONF
ClusterName=shrinkflow
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
# Finished jobs stay known to squeue and scontrol: there is no accounting.
MinJobAge=3600
ReturnToService=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
# The node is what this says, not what the machine has.
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=100000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    # A GPU that is none: Slurm counts it, and tells a job which one it has.
    echo "NodeName=$host Name=gpu File=/dev/null" > "$folder/gres.conf"
}

# Slurm's commands, told where the configuration lies: the variable itself does not reach all of them, the plugin for
# Snakemake taking it from the steps of jobs. What is submitted is written to $SUBMISSIONS, one line each;
# with REFUSE nothing is.
commands() {
    local folder=$1 name
    mkdir -p "$folder/bin"
    for name in sbatch srun squeue scontrol sinfo scancel sacctmgr; do
        cat > "$folder/bin/$name" <<COMMAND
#!/usr/bin/env bash
[ $name = sbatch ] && [ -n "\${SUBMISSIONS:-}" ] && printf '%q ' "\$@" >> "\$SUBMISSIONS" && echo >> "\$SUBMISSIONS"
[ $name = sbatch ] && [ -n "\${REFUSE:-}" ] && exit 1
SLURM_CONF=$folder/slurm.conf exec $(command -v "$name") "\$@"
COMMAND
        chmod +x "$folder/bin/$name"
    done
}

start() {
    local folder=$1
    mkdir -p "$folder"/{state,spool}
    configure "$folder"
    commands "$folder"
    export SLURM_CONF=$folder/slurm.conf
    (umask 077; head -c 1024 /dev/urandom > "$folder/munge.key")
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"
    slurmctld
    slurmd
    for _ in $(seq 120); do
        [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && return
        sleep 0.5
    done
    echo "no node of the cluster became idle in a minute; the logs of its daemons:" >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
}

# Jobs first, then the daemons, whatever of them there is.
stop() {
    local folder=$1 name pid
    export SLURM_CONF=$folder/slurm.conf
    if [ -f "$folder/slurmctld.pid" ]; then
        timeout 20 scancel --user=root || true
        for _ in $(seq 60); do
            [ -n "$(timeout 20 squeue --noheader)" ] || break
            sleep 0.5
        done
    fi
    for name in slurmd slurmctld munge; do
        [ -f "$folder/$name.pid" ] || continue
        pid=$(cat "$folder/$name.pid")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 20); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.5
        done
        kill -9 "$pid" 2>/dev/null || true
    done
}

"$@"
