#!/usr/bin/env bash
# Gather what a machine with a CUDA GPU, torch and no package index needs to run benchmarks/on_cuda.py.
#
#   benchmarks/pack_cuda.sh [OUT]     put the host's source, this pack and the few wheels into OUT (default .gpu,
#                                     which git ignores) and print its size; the machine then runs
#                                         COMFYUI_PATH=OUT/ComfyUI python3 OUT/likeness/benchmarks/on_cuda.py
#   benchmarks/pack_cuda.sh --train PART [OUT]
#                                     the same for benchmarks/train_on_cuda.py: with the weights of the miniature that
#                                     PART (base, inpainting, fact, face2diffusion) goes on from, without tests' data
#   benchmarks/pack_cuda.sh --aside   move the miniature's weights out of the tree, where the whole tree is to travel
#                                     and is too large; a git checkout then misses them until
#   benchmarks/pack_cuda.sh --back    puts them back
#
# The machine brings Python 3.12 (or $PYTHON_TAG), torch, torchvision, torchaudio, transformers, tokenizers, numpy,
# scipy, einops, safetensors, aiohttp, yarl, requests, psutil, tqdm, pyyaml, pillow, filelock; for the stages
# `hosts` and `tests` also opencv-python-headless, onnx, onnxruntime, pytest and hypothesis.
# Left out of the host: large tokenizers. comfy-kitchen and SQLAlchemy go without their compiled parts, for which they
# have others in Python. Of av, 35 MB that read videos, empty names go and a video without images, after which the
# host's Load Image reads a picture by Pillow.
set -euo pipefail
cd "$(dirname "$0")/.."
LIMIT_MIB=64
ASIDE=.host/aside

case "${1:-}" in
--aside) mkdir -p "$ASIDE" && mv miniature/weights "$ASIDE/weights"; exit ;;
--back) mv "$ASIDE/weights" miniature/weights; git diff --stat -- miniature/weights; exit ;;
esac

case "${1:-}" in -*) [ "$1" = --train ] || { echo "unknown option $1: see the head of this script" >&2; exit 2; } ;; esac

leave_out=(':!miniature/weights' ':!miniature/report')
weights_of=()
if [ "${1:-}" = --train ]; then
    case "${2:-}" in
    base | inpainting) weights_of=(base inpainting) ;;
    fact) weights_of=(base facechain_fact) ;;
    face2diffusion) weights_of=(base face2diffusion) ;;
    *) echo "--train needs one of base, inpainting, fact, face2diffusion" >&2; exit 2 ;;
    esac
    leave_out+=(':!tests/golden' ':!workflows' ':!web')
    shift 2
fi
out=$(realpath -m "${1:-.gpu}")
comfy=$(realpath "${COMFYUI_PATH:-.host/ComfyUI}")
[ -f "$comfy/main.py" ] || { echo "no ComfyUI at $comfy: run 'python3 likeness.py test --co' once, which fetches one" >&2; exit 1; }
if [ -n "$(ls -A "$out" 2>/dev/null)" ] && [ ! -f "$out/likeness/benchmarks/on_cuda.py" ]; then
    echo "$out holds something else than a bundle: name another folder, or empty this one" >&2
    exit 1
fi
rm -rf "$out"
mkdir -p "$out/site" "$out/ComfyUI" "$out/likeness"

pinned() { grep "^$1==" "$comfy/requirements.txt"; }
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
fetch() {
    local platforms=(--platform manylinux2014_x86_64) glibc
    for glibc in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    python3 -m pip download -q --disable-pip-version-check --only-binary=:all: --python-version "${PYTHON_TAG:-3.12}" \
        --implementation cp "${platforms[@]}" -d "$wheels" "$@"
}
fetch --no-deps "$(pinned comfy-kitchen)" "$(pinned comfy-aimdo)" torchsde trampoline
fetch pydantic
[ ${#weights_of[@]} -gt 0 ] || fetch --no-deps SQLAlchemy alembic Mako blake3 simpleeval  # what a whole server needs
for wheel in "$wheels"/*.whl; do python3 -m zipfile -e "$wheel" "$out/site"; done
find "$out/site" \( -path '*/comfy_kitchen/*' -o -path '*/sqlalchemy/*' \) -name '*.so' -delete
for module in av av/container av/subtitles av/subtitles/stream av/video av/video/reformatter; do
    mkdir -p "$out/site/$module"
    cat > "$out/site/$module/__init__.py" <<'PYTHON'
from contextlib import contextmanager
from types import SimpleNamespace


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
PYTHON
done
cat >> "$out/site/av/__init__.py" <<'PYTHON'


@contextmanager
def open(file, mode):
    video = SimpleNamespace(time_base=1, average_rate=None)
    yield SimpleNamespace(streams=SimpleNamespace(video=[video], audio=[]), demux=lambda *streams: (), metadata={})
PYTHON

copy() { tar -C "$1" -cf - --exclude=__pycache__ "${@:3}" | tar -C "$2" -xf -; }
(cd "$comfy" && ls -d comfy comfy_* api_server app utils middleware alembic_db alembic.ini requirements.txt ./*.py 2>/dev/null || true) > "$wheels/host"
copy "$comfy" "$out/ComfyUI" --exclude='*_tokenizer/*.json' --exclude='*_tokenizer/*.txt' \
    --exclude='*_tokenizer/*.model' --exclude=comfy_api_nodes -T "$wheels/host"
copy "$comfy" "$out/ComfyUI" comfy/sd1_tokenizer
git ls-files -- . "${leave_out[@]}" > "$wheels/pack"
for part in "${weights_of[@]}"; do git ls-files -- "miniature/weights/$part*" >> "$wheels/pack"; done
copy . "$out/likeness" -T "$wheels/pack"

size=$(du -sm --apparent-size "$out" | cut -f1)
echo "$out: $size MiB of at most $LIMIT_MIB"
[ "$size" -lt "$LIMIT_MIB" ]
