#!/usr/bin/env bash
# Print what became of a job of PBS: running, success or failed. Without it, a job that the queue killed is waited for for ever.
set -euo pipefail
found=$(qstat -x -f "$1")
case $(sed -n 's/^ *job_state = //p' <<< "$found") in
    F | C) [ "$(sed -n 's/^ *[Ee]xit_status = //p' <<< "$found")" = 0 ] && echo success || echo failed ;;
    *) echo running ;;
esac
