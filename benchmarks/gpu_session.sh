#!/bin/bash
# Everything that needs a GPU, in under five minutes: tests, training steps, the table of benchmarks.device.
#
#     bash benchmarks/gpu_session.sh [cuda|cpu] [TESTS SECONDS] [STEPS SECONDS] [TABLE SECONDS]
#
# Logs and the table go to $OUT (default: /tmp/gpu_session); a summary is printed at the end. PYTHON names
# another interpreter. A machine without the packages: an archive of them, .gpu/site.tar.xz, is unpacked to /tmp/site.
set -u
cd "$(dirname "$0")/.."
device=${1:-cuda} tests=${2:-100} steps=${3:-45} table=${4:-135}
python=${PYTHON:-python3} out=${OUT:-/tmp/gpu_session}
mkdir -p "$out"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTORCH_NVML_BASED_CUDA_CHECK=1
if [ -e .gpu/site.tar.xz ] && ! $python -c 'import cvxpy' 2>/dev/null; then
    $python -c 'import tarfile; tarfile.open(".gpu/site.tar.xz").extractall("/tmp/site", filter="fully_trusted")' || exit
    export PYTHONPATH=/tmp/site:$PWD
fi
$python -c 'import sys, torch, numpy, cvxpy, sst_cvx
print(sys.version.split()[0], "torch", torch.__version__, "numpy", numpy.__version__, "cvxpy", cvxpy.__version__)' || exit
[ "$device" = cpu ] || nvidia-smi --query-gpu=name,driver_version,memory.used --format=csv,noheader

part() {  # NAME SECONDS COMMAND...: run it under a limit, keep all it says
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
    echo "$name: exit status $?, $((SECONDS - begin)) s" | tee -a "$out/parts"
}

quick=() preset=paper workers=12
[ "$device" = cpu ] && quick=(--quick) preset=tiny workers=1
xdist=()
$python -c 'import xdist' 2>/dev/null && xdist=(-n "$workers")
rm -f "$out"/{parts,device.md,tests.log,steps.log,steps_tf32.log,device.log}
part tests "$tests" $python -m pytest tests/test_device.py -q --tb=short -p no:cacheprovider "${xdist[@]}"
part steps "$steps" $python -m examples.graph_layout.timing --steps 50 --preset "$preset" --device "$device"
NVIDIA_TF32_OVERRIDE=1 part steps_tf32 "$steps" $python -m examples.graph_layout.timing --steps 50 --preset "$preset" --device "$device"
part device "$table" $python -m benchmarks.device --device "$device" "${quick[@]}" --total "$((table - 10))" \
    --output "$out/device.md"
cut -c 1-200 "$out/device.md"
grep -v '^|' "$out/device.log" | grep -E '^[A-Za-z.]*Error' | sort | uniq -c | sort -rn | head -5 | cut -c 1-200
grep -E '^(FAILED|ERROR)|passed|failed' "$out/tests.log" | tail -n 25 | cut -c 1-150
tail -n 12 "$out/steps.log" | cut -c 1-200
tail -n 7 "$out/steps_tf32.log" | cut -c 1-200
cat "$out/parts"
