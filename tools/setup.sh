#!/usr/bin/env bash
# Makes .venv ready for use; returns at once when nothing has changed. .venv may be a link to a folder elsewhere.
#   PYTHON   interpreter to build .venv from            (default: the first of 3.11 or newer)
#   NEED_GB  free disk space to require before the start (default: 7 on Linux, where torch brings CUDA, else 2)
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX  # another environment may be active
unset PYTHONDONTWRITEBYTECODE  # the import at the end compiles torch: 6 s less at each later start
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python=.venv/bin/python
log=.venv/setup.log
stamp=.venv/setup-done  # folder and checksum of what was installed; missing while an installation is unfinished
wanted="$PWD $(cat pyproject.toml tools/setup.sh | cksum)"
fail() { echo "Set-up failed: $*" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo "not there"; }
unreachable() { grep -qiE 'failed to fetch|error sending request|failed to establish|connection (refused|reset|broken|timed out)|dns error|newconnectionerror|connecttimeout|proxyerror|sslerror|name resolution|network is unreachable' "$log"; }

# One sentence from the log of what failed.
explain() {
    if grep -qiE 'no space left|os error 28|errno 28|quota exceeded' "$log"; then
        fail "the disk filled up while $1; make room in $PWD and in the temporary and cache folders, then repeat"
    elif unreachable; then
        fail "the package index (${index##*@}) cannot be reached; check the network connection and proxy settings," \
            "then repeat (details: $log)"
    fi
    fail "an error while $1, namely: $(grep -v '^ *$' "$log" | tail -n 1) (details: $log)"
}

new_venv() {
    local need=${NEED_GB:-$([ "$(uname)" = Linux ] && echo 7 || echo 2)} free base=${PYTHON:-} name
    for name in python3 python python3.14 python3.13 python3.12 python3.11; do
        [ -n "$base" ] || { recent "$name" && base=$name; }
    done
    recent "${base:=python3}" || fail "Python 3.11 or newer is needed, but $base is $(version "$base");" \
        "name a newer one, for example: make run PYTHON=python3.12"
    "$base" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$base has no venv module; install it (on Debian and Ubuntu: apt install python3-venv), then repeat"
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$need" ] || fail "the disk is too full, .venv needs $need GB and $free GB are free in $PWD;" \
        "make room there or move the repository to another disk, then repeat"
    echo "Setting up .venv: a few minutes and up to 7 GB, once."
    mkdir -p .venv && "$base" -m venv --clear .venv || fail "cannot write to $PWD; make that folder writable"
}

[ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
before=$(cat "$stamp" 2>/dev/null)
if [ -x "$python" ] && [ "${before% * *}" = "$PWD" ]; then echo "Bringing .venv up to date."; else new_venv; fi
rm -f "$stamp"
: >"$log"

index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}  # uv has its own names for what pip's variables say
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
index=${index:-PyPI}
# uv downloads and unpacks several packages at once; pip does where there is no uv for this machine.
uv=$(command -v uv) || { "$python" -m pip install --quiet uv >>"$log" 2>&1 && uv=.venv/bin/uv; }
if [ -n "$uv" ]; then install=("$uv" pip install --python "$python"); else install=("$python" -m pip install); fi
"${install[@]}" --editable ".[dev]" 2>&1 | tee -a "$log"
[ "${PIPESTATUS[0]}" = 0 ] || {
    # Nothing has changed yet when the index does not answer: a .venv that worked still works.
    [ -n "$before" ] && unreachable && echo "$before" >"$stamp"
    explain "installing the packages"
}
"$python" -c 'import torch, torchvision' >>"$log" 2>&1 ||
    fail "torch and torchvision are installed but do not work together ($(tail -n 1 "$log"));" \
        "unset PIP_FIND_LINKS, UV_FIND_LINKS and extra package indexes, if there are any, and repeat"
echo "$wanted" >"$stamp"
