# Sourced by the scripts beside it: stop at the first error, work at the root, and have uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v uv >/dev/null; then
  python3 -m uv --version >/dev/null 2>&1 || python3 -m pip install --quiet uv
  uv() { python3 -m uv "$@"; }
fi

# The tests start hundreds of processes: each would compile what it imports, if none kept it.
unset PYTHONDONTWRITEBYTECODE
