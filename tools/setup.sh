#!/usr/bin/env bash
# Makes .venv ready for use. Returns at once when nothing has changed, repairs what an interruption left,
# and ends with one plain sentence when it cannot go on.
#   PYTHON   interpreter to build .venv from          (default: the first of 3.11 or newer)
#   NEED_GB  free disk space to ask for before a start (default: 7 on Linux, where torch brings CUDA, else 2)
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX  # another environment may be active
unset PYTHONDONTWRITEBYTECODE  # the import at the end compiles torch: 6 s less at each later start
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python=.venv/bin/python
log=.venv/setup.log
stamp=.venv/setup-done            # folder and checksum of what was installed; missing while something is undone
running=.venv/setup-running       # process number of the set-up at work; left behind by an interrupted one
wanted="$PWD $(cat pyproject.toml tools/setup.sh | cksum)"

fail() {
    echo "Set-up failed: $*" >&2
    exit 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo "not there"; }

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        recent "$PYTHON" || fail "Python 3.11 or newer is needed, but $PYTHON is $(version "$PYTHON");" \
            "name a newer one, for example: make run PYTHON=python3.12"
        base=$PYTHON
        return
    fi
    for name in python3 python python3.14 python3.13 python3.12 python3.11; do
        if recent "$name"; then base=$name; return; fi
    done
    base=
}

check_disk() {
    local need free
    if [ "$(uname)" = Linux ]; then need=${NEED_GB:-7}; else need=${NEED_GB:-2}; fi
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$need" ] || fail "the disk is too full, .venv needs $need GB and $free GB are free in $PWD;" \
        "make room there or move the repository to another disk, then repeat"
}

new_venv() {
    find_python
    if [ -z "$base" ] && [ -z "$uv" ]; then
        fail "Python 3.11 or newer is needed, but python3 is $(version python3);" \
            "install a newer one and name it, for example: make run PYTHON=python3.12"
    fi
    if [ -z "$uv" ] && ! "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        fail "$base has no venv module, which .venv is made with;" \
            "install it (on Debian and Ubuntu: apt install python3-venv) or install uv, then repeat"
    fi
    check_disk
    echo "Setting up .venv: a few minutes and up to 7 GB, once."
    rm -rf .venv && mkdir .venv && echo $$ >"$running" || fail "cannot write to $PWD; make that folder writable"
    if [ -n "$uv" ]; then
        "$uv" venv --quiet --allow-existing --python "${base:->=3.11}" .venv >"$log" 2>&1
    else
        "$base" -m venv .venv >"$log" 2>&1
    fi
    [ -x "$python" ] && recent "$python" || explain "making .venv"
}

# Runs an installer: everything into the log, only its progress on the screen.
logged() {
    "$@" 2>&1 | tee -a "$log" |
        awk '/^(Collecting|Downloading|Installing|Resolved|Prepared|Installed) / { print substr($0, 1, 100); fflush() }'
    return "${PIPESTATUS[0]}"
}

install_with_pip() {
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >>"$log" 2>&1
    # uv downloads and unpacks several packages at once, and takes no notice of local folders of other torch builds.
    if "$python" -m pip install --quiet --only-binary :all: uv >>"$log" 2>&1; then
        install_with_uv .venv/bin/uv && return 0
    elif unreachable; then
        return 1
    fi
    ! disk_full && logged "$python" -m pip install --editable ".[dev,widgets]"
}

install_with_uv() { logged "$1" pip install --python "$python" --editable ".[dev,widgets]"; }

disk_full() { grep -qiE 'no space left|os error 28|errno 28|quota exceeded' "$log"; }

unreachable() {
    grep -qE 'Failed to fetch|error sending request|Failed to establish|Connection (refused|reset|broken|timed out)|dns error' "$log" ||
        grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|name resolution|Network is unreachable' "$log"
}

# One sentence from the log of what failed.
explain() {
    if disk_full; then
        fail "the disk filled up while $1; make room in $PWD and in the temporary and cache folders, then repeat"
    elif unreachable; then
        fail "the package index (${index_name:-PyPI}) cannot be reached;" \
            "check the network connection and proxy settings, then repeat (details: $log)"
    elif grep -qE 'No solution found|No matching distribution|ResolutionImpossible|no wheels' "$log"; then
        fail "the package index has no fitting build of a package for Python $(version "$python") on $(uname -sm);" \
            "try another Python, for example: make run PYTHON=python3.12 (details: $log)"
    fi
    fail "an error while $1, namely: $(grep -v '^ *$' "$log" | tail -n 1) (details: $log)"
}

[ -x "$python" ] && [ ! -e "$running" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

if [ -e "$running" ] && kill -0 "$(cat "$running")" 2>/dev/null; then
    fail "another set-up (process $(cat "$running")) is at work in $PWD; wait for it, or delete .venv if there is none"
fi
trap 'echo "Set-up interrupted: the next make repairs it." >&2; exit 130' INT TERM

# uv has its own names for what pip's variables say.
index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-}}}
index_name=${index##*@}  # without user and password
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
uv=$(command -v uv) && "$uv" --version >/dev/null 2>&1 || uv=

# A finished .venv is brought up to date; an unfinished, broken or moved one is made anew.
done_for=$(cat "$stamp" 2>/dev/null)
if [ -e "$running" ] || [ ! -x "$python" ] || { [ -n "$done_for" ] && [ "${done_for% * *}" != "$PWD" ]; }; then
    new_venv
else
    recent "$python" || fail ".venv holds Python $(version "$python") and 3.11 or newer is needed; delete .venv and repeat"
    echo "Bringing .venv up to date."
    echo $$ >"$running" && : >"$log"
fi

if [ -n "$uv" ]; then install_with_uv "$uv"; else install_with_pip; fi
if [ $? -ne 0 ]; then
    # Nothing was changed yet when the index does not answer: a .venv that worked goes on working.
    [ -n "$done_for" ] && unreachable && rm -f "$running"
    explain "installing the packages"
fi
# A folder of local packages may have supplied a torch that the index's torchvision was not built for.
"$python" -c 'import torch, torchvision' >>"$log" 2>&1 ||
    fail "torch and torchvision are installed but do not work together ($(tail -n 1 "$log"));" \
        "unset PIP_FIND_LINKS, UV_FIND_LINKS and extra package indexes, if there are any, and repeat"
echo "$wanted" >"$stamp" && rm -f "$running"
